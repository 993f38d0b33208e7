// SPDX-License-Identifier: Apache-2.0
#include "prepare/pages.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "base/file.h"
#include "base/parallel.h"
#include "monitor/page.h"

namespace fluxlora::prepare {

namespace fs = std::filesystem;
using monitor::escape_html;

namespace {

constexpr int kMostSheet = 4096, kMostCell = 256;  // pixels

/// The picture as large as a square cell allows.
Picture reduced(const Picture& picture, int cell) {
  const double factor = std::min(1.0, double(cell) / std::max(picture.width, picture.height));
  const auto side = [&](int length) {
    return std::max(1, static_cast<int>(std::lround(length * factor)));
  };
  return resize(picture, {0, 0, picture.width, picture.height},
                {side(picture.width), side(picture.height)});
}

/// A name in a URL: only what RFC 3986 calls unreserved stays.
std::string url_of(const std::string& name) {
  constexpr std::string_view kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
  std::string url;
  for (const char c : name) {
    if (kPlain.find(c) != std::string_view::npos) {
      url += c;
    } else {
      url += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return url;
}

std::string found_by(const PreparedPicture& p) {
  if (p.crop.found_by == word_for(FoundBy::you)) return "chosen by you";
  return p.crop.found_by == word_for(FoundBy::centre) ? "the centre"
                                                      : "found by " + p.crop.found_by;
}

std::string findings_of(const Report& report, const std::string& file) {
  std::string items;
  for (const Finding& f : report.findings) {
    if (std::find(f.pictures.begin(), f.pictures.end(), file) == f.pictures.end()) continue;
    items += fmt::format("<li>{}</li>\n", escape_html(f.reason));
  }
  return items.empty() ? "" : "<ul>\n" + items + "</ul>\n";
}

std::string card(const Report& report, const PreparedPicture& p) {
  const std::string name = escape_html(shown_name(p.file));
  const int line = std::max(1, std::max(p.source.width, p.source.height) / 200);
  return fmt::format(
      "<figure>\n<svg viewBox=\"0 0 {0} {1}\" role=\"img\" aria-label=\"The crop of {2}\">"
      "<rect class=\"frame\" width=\"{0}\" height=\"{1}\"/>"
      "<image href=\"{3}\" x=\"{4}\" y=\"{5}\" width=\"{6}\" height=\"{7}\"/>"
      "<rect class=\"box\" x=\"{4}\" y=\"{5}\" width=\"{6}\" height=\"{7}\" "
      "stroke-width=\"{8}\"/></svg>\n"
      "<figcaption><b>{2}</b> {0}x{1}, crop {6}x{7} at {4},{5}: {9}</figcaption>\n"
      "<p>{10}</p>\n{11}</figure>\n",
      p.source.width, p.source.height, name, url_of(p.written), p.used.x, p.used.y, p.used.width,
      p.used.height, line, found_by(p), escape_html(p.caption), findings_of(report, p.file));
}

std::string warnings(const Report& report) {
  if (report.findings.empty()) return "";
  std::string items;
  for (const Finding& finding : report.findings)
    items += fmt::format("<li>{}</li>\n", escape_html(finding.line()));
  return fmt::format("<section class=\"warnings\"><h2>Warnings</h2>\n<ul>\n{}</ul></section>\n",
                     items);
}

}  // namespace

void write_contact_sheet(const fs::path& folder, const Report& report) {
  const auto count = static_cast<double>(report.pictures.size());
  const int columns = std::max(1, static_cast<int>(std::ceil(std::sqrt(count))));
  const int cell = std::clamp(kMostSheet / columns, 1, kMostCell);
  std::vector<Picture> cells(report.pictures.size());
  parallel_for(static_cast<int64_t>(cells.size()), 1, [&](int64_t first, int64_t last) {
    for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(last); ++i)
      cells[i] = reduced(read_picture(folder / report.pictures[i].written), cell);
  });
  write_png(folder / "contact_sheet.png", grid(cells, {.columns = columns, .margin = 8}));
}

void write_page(const fs::path& folder, const Report& report) {
  std::string cards;
  for (const PreparedPicture& p : report.pictures) cards += card(report, p);
  const std::string status =
      fmt::format("{} picture{}; crop.json says where each was cropped", report.pictures.size(),
                  report.pictures.size() == 1 ? "" : "s");
  const FileView page = map_file("builtin:report/dataset.html");
  const std::string text =
      monitor::fill_page(page.text(), {{"style", monitor::page_style()},
                                       {"status", status},
                                       {"trigger", escape_html(report.trigger_split)},
                                       {"warnings", warnings(report)},
                                       {"cards", cards}});
  write_file_atomically(folder / "dataset.html", std::string_view(text));
}

}  // namespace fluxlora::prepare
