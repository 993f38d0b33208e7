// SPDX-License-Identifier: Apache-2.0
#include "data/glance.h"

#include <algorithm>

#include <vips/vips8>

#include "base/error.h"
#include "data/vips_library.h"

namespace fluxlora {

using vips::VImage;

Picture block_means(const Picture& picture, Size blocks) {
  CHECK(blocks.width > 0 && blocks.width <= picture.width && blocks.height > 0 &&
            blocks.height <= picture.height,
        "block_means: blocks");
  Picture means{blocks.width, blocks.height, {}};
  means.rgb.reserve(static_cast<size_t>(means.width) * means.height * 3);
  const auto edge = [](int64_t block, int64_t count, int64_t length) {
    return block * length / count;
  };
  // Down first: whole rows are added up in vectors.
  std::vector<uint32_t> columns(static_cast<size_t>(picture.width) * 3);
  for (int row = 0; row < means.height; ++row) {
    const int64_t top = edge(row, means.height, picture.height);
    const int64_t bottom = edge(row + 1, means.height, picture.height);
    std::fill(columns.begin(), columns.end(), 0);
    for (int64_t y = top; y < bottom; ++y) {
      const uint8_t* const pixels = &picture.rgb[static_cast<size_t>(y) * columns.size()];
      for (size_t j = 0; j < columns.size(); ++j) columns[j] += pixels[j];
    }
    for (int block = 0; block < means.width; ++block) {
      const int64_t left = edge(block, means.width, picture.width);
      const int64_t right = edge(block + 1, means.width, picture.width);
      const auto count = static_cast<uint64_t>((right - left) * (bottom - top));
      for (int64_t c = 0; c < 3; ++c) {
        uint64_t sum = count / 2;
        for (int64_t x = left; x < right; ++x) sum += columns[static_cast<size_t>(3 * x + c)];
        means.rgb.push_back(static_cast<uint8_t>(sum / count));
      }
    }
  }
  return means;
}

Picture thumbnail(const Picture& picture, Size target) {
  CHECK(target.width > 0 && target.height > 0, "thumbnail: target");
  // Whole pixels a block, and two blocks or more a pixel of the result.
  const auto blocks = [](int length, int wanted) {
    return length / std::max(1, length / wanted / 2);
  };
  const Picture means = block_means(
      picture, {blocks(picture.width, target.width), blocks(picture.height, target.height)});
  return resize(means, {0, 0, means.width, means.height}, target);
}

std::optional<Point> attention_point(const Picture& picture) {
  const auto [least, most] = std::minmax_element(picture.rgb.begin(), picture.rgb.end());
  // libvips needs some pixels to look at; of equal ones it would name the first.
  if (std::min(picture.width, picture.height) < 8 || *most - *least < 8) return std::nullopt;
  int x = 0, y = 0;
  try {
    const int side = std::min(picture.width, picture.height);
    as_vips(picture).smartcrop(side, side,
                               VImage::option()
                                   ->set("interesting", VIPS_INTERESTING_ATTENTION)
                                   ->set("attention_x", &x)
                                   ->set("attention_y", &y));
  } catch (const vips::VError&) {
    vips_error_clear();
    return std::nullopt;
  }
  return Point{double(x), double(y)};
}

}  // namespace fluxlora
