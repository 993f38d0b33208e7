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
  const auto edge = [](int64_t cell, int64_t cells, int64_t length) {
    return cell * length / cells;
  };
  std::vector<uint64_t> sums;
  for (int row = 0; row < means.height; ++row) {
    const int64_t top = edge(row, means.height, picture.height);
    const int64_t bottom = edge(row + 1, means.height, picture.height);
    sums.assign(static_cast<size_t>(means.width) * 3, 0);
    for (int64_t y = top; y < bottom; ++y) {
      const uint8_t* pixel = &picture.rgb[static_cast<size_t>(y * picture.width * 3)];
      for (int cell = 0; cell < means.width; ++cell) {
        const int64_t right = edge(cell + 1, means.width, picture.width);
        uint32_t red = 0, green = 0, blue = 0;
        for (int64_t x = edge(cell, means.width, picture.width); x < right; ++x, pixel += 3) {
          red += pixel[0];
          green += pixel[1];
          blue += pixel[2];
        }
        uint64_t* const sum = &sums[static_cast<size_t>(cell) * 3];
        sum[0] += red;
        sum[1] += green;
        sum[2] += blue;
      }
    }
    for (int cell = 0; cell < means.width; ++cell) {
      const int64_t width =
          edge(cell + 1, means.width, picture.width) - edge(cell, means.width, picture.width);
      const auto count = static_cast<uint64_t>(width * (bottom - top));
      for (int c = 0; c < 3; ++c)
        means.rgb.push_back(
            static_cast<uint8_t>((sums[static_cast<size_t>(cell) * 3 + c] + count / 2) / count));
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
