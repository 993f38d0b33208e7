// SPDX-License-Identifier: Apache-2.0
#include "prepare/finding.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/file.h"

namespace fluxlora::prepare {

std::string shown_name(const std::string& name) {
  std::string shown = name;
  const bool text = line_that_is_not_utf8(name) == 0;
  std::replace_if(
      shown.begin(), shown.end(),
      [text](unsigned char c) { return c < 0x20 || c == 0x7f || (!text && c >= 0x80); }, '?');
  return shown;
}

std::string Finding::line() const {
  constexpr size_t kShown = 4;
  std::vector<std::string> names;
  for (size_t i = 0; i < std::min(kShown, pictures.size()); ++i)
    names.push_back(shown_name(pictures[i]));
  std::string text = fmt::format("{}", fmt::join(names, ", "));
  if (pictures.size() > kShown) text += fmt::format(" and {} more", pictures.size() - kShown);
  if (!text.empty()) text += ": ";
  return text + reason + (left_out ? ", so it is left out; " : "; ") + remedy;
}

}  // namespace fluxlora::prepare
