// SPDX-License-Identifier: Apache-2.0
// Contact sheets: many pictures on one, with a line of text above a row.
#include <algorithm>
#include <cstring>
#include <memory>

#include <vips/vips8>

#include "base/error.h"
#include "data/resize.h"
#include "data/vips_library.h"

namespace fluxlora {

namespace {

using vips::VImage;

void paste(Picture& sheet, const Picture& picture, int x, int y) {
  const size_t row_bytes = static_cast<size_t>(picture.width) * 3;
  for (int row = 0; row < picture.height; ++row) {
    const size_t to = (static_cast<size_t>(y + row) * sheet.width + x) * 3;
    std::memcpy(&sheet.rgb[to], &picture.rgb[row * row_bytes], row_bytes);
  }
}

/// Black on white, at most `width` pixels wide; an empty picture for an empty text or no font.
Picture text_line(const std::string& text, int width) {
  if (text.empty()) return {};
  start_vips();
  const std::unique_ptr<char, decltype(&g_free)> escaped(
      g_markup_escape_text(text.c_str(), static_cast<gssize>(text.size())), g_free);
  try {
    VImage ink =
        VImage::text(escaped.get(),
                     VImage::option()->set("font", "sans 10")->set("dpi", 96)->set("width", width));
    ink = ink.crop(0, 0, std::min(ink.width(), width), ink.height());
    const VImage paper = ink.invert();
    return from_vips(paper.bandjoin(paper).bandjoin(paper));
  } catch (const vips::VError&) {
    vips_error_clear();
    return {};
  }
}

}  // namespace

Picture grid(const std::vector<Picture>& pictures, const GridOptions& options) {
  CHECK(!pictures.empty() && options.columns > 0 && options.margin >= 0, "grid: options");
  const int columns = std::min<int>(options.columns, static_cast<int>(pictures.size()));
  const int rows = static_cast<int>((pictures.size() + columns - 1) / columns);
  const int margin = options.margin;
  Size cell;
  for (const Picture& picture : pictures) {
    cell.width = std::max(cell.width, picture.width);
    cell.height = std::max(cell.height, picture.height);
  }

  Picture sheet{margin + columns * (cell.width + margin), margin, {}};
  std::vector<Picture> labels(rows);
  std::vector<int> row_tops(rows);  // of the label, or of the pictures if there is none
  for (int row = 0; row < rows; ++row) {
    if (row < static_cast<int>(options.row_labels.size())) {
      labels[row] = text_line(options.row_labels[row], sheet.width - 2 * margin);
    }
    row_tops[row] = sheet.height;
    if (labels[row].height > 0) sheet.height += labels[row].height + margin;
    sheet.height += cell.height + margin;
  }
  sheet.rgb.assign(static_cast<size_t>(sheet.width) * sheet.height * 3, 255);

  for (int row = 0; row < rows; ++row) {
    paste(sheet, labels[row], margin, row_tops[row]);
    const int top = row_tops[row] + (labels[row].height > 0 ? labels[row].height + margin : 0);
    for (int column = 0; column < columns; ++column) {
      const size_t index = static_cast<size_t>(row) * columns + column;
      if (index >= pictures.size()) break;
      const Picture& picture = pictures[index];
      paste(sheet, picture,
            margin + column * (cell.width + margin) + (cell.width - picture.width) / 2,
            top + (cell.height - picture.height) / 2);
    }
  }
  return sheet;
}

}  // namespace fluxlora
