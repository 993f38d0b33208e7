// SPDX-License-Identifier: Apache-2.0
#include "data/glance.h"

#include <algorithm>

#include <vips/vips8>

#include "base/error.h"
#include "data/vips_library.h"

namespace fluxlora {

using vips::VImage;

Picture thumbnail(const Picture& picture, Size target) {
  CHECK(target.width > 0 && target.height > 0, "thumbnail: target");
  // The gap lets libvips average blocks until the picture is at most 4 times too large.
  Picture small = from_vips(as_vips(picture).resize(
      double(target.width) / picture.width,
      VImage::option()->set("vscale", double(target.height) / picture.height)->set("gap", 2.0)));
  CHECK(small.width == target.width && small.height == target.height, "thumbnail: size");
  return small;
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
