// SPDX-License-Identifier: Apache-2.0
#include "monitor/page.h"

#include "base/error.h"
#include "base/file.h"

namespace fluxlora::monitor {

std::string escape_html(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string page_style() {
  return std::string(map_file("builtin:report/style.css").text());
}

std::string fill_page(std::string_view page, const std::map<std::string, std::string>& parts) {
  std::string filled;
  while (true) {
    const size_t open = page.find("{{"), close = page.find("}}", open);
    if (open == std::string_view::npos || close == std::string_view::npos) break;
    const std::string name(page.substr(open + 2, close - open - 2));
    CHECK(parts.count(name) == 1, "page: the template names " + name);
    filled += page.substr(0, open);
    filled += parts.at(name);
    page.remove_prefix(close + 2);
  }
  return filled.append(page);
}

}  // namespace fluxlora::monitor
