// SPDX-License-Identifier: Apache-2.0
#include "data/resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <vips/vips8>

#include "base/error.h"
#include "data/reduce.h"
#include "data/vips_library.h"

namespace fluxlora {

using vips::VImage;

Box centre_box(Size source, Size target) {
  CHECK(source.width > 0 && source.height > 0 && target.width > 0 && target.height > 0,
        "centre_box: sizes");
  // Compare the proportions as integers: source.width / source.height with target's.
  const int64_t across = int64_t{source.width} * target.height;
  const int64_t down = int64_t{source.height} * target.width;
  Box box{0, 0, source.width, source.height};
  if (across > down) {
    box.width = static_cast<int>(std::max<int64_t>(1, std::llround(double(down) / target.height)));
  } else {
    box.height =
        static_cast<int>(std::max<int64_t>(1, std::llround(double(across) / target.width)));
  }
  box.x = (source.width - box.width) / 2;
  box.y = (source.height - box.height) / 2;
  return box;
}

double enlargement(const Box& box, Size target) {
  return std::max(double(target.width) / box.width, double(target.height) / box.height);
}

namespace {

/// Catmull and Rom's cubic. Pixel centres lie at halves: out + 1/2 = factor (in + 1/2); libvips'
/// own resize() is half a pixel off here.
VImage enlarge(const VImage& image, Size target) {
  const double across = double(target.width) / image.width();
  const double down = double(target.height) / image.height();
  return image.affine({across, 0, 0, down},
                      VImage::option()
                          ->set("interpolate", vips::VInterpolate::new_from_name("bicubic"))
                          ->set("oarea", std::vector<int>{0, 0, target.width, target.height})
                          ->set("idx", 0.5)
                          ->set("idy", 0.5)
                          ->set("odx", -0.5)
                          ->set("ody", -0.5)
                          ->set("extend", VIPS_EXTEND_COPY));
}

Picture resized(const Picture& picture, const Box& box, Size target, Filter filter) {
  CHECK(target.width > 0 && target.height > 0, "resize: target");
  const Size less{std::min(target.width, box.width), std::min(target.height, box.height)};
  const Picture reduced = reduce(picture, box, less, filter);
  if (less == target) return reduced;
  // In float: the filter of libvips for 8 bits rounds its coefficients, flat colours drift by 2.
  const VImage image = enlarge(as_vips(reduced).cast(VIPS_FORMAT_FLOAT), target);
  Picture result = from_vips(image.rint().cast(VIPS_FORMAT_UCHAR));
  CHECK(result.width == target.width && result.height == target.height,
        "resize: size of the result");
  return result;
}

}  // namespace

Picture resize(const Picture& picture, const Box& box, Size target) {
  CHECK(box.x >= 0 && box.y >= 0 && box.width > 0 && box.height > 0 &&
            box.x + box.width <= picture.width && box.y + box.height <= picture.height,
        "resize: the box lies inside the picture");
  return resized(picture, box, target, Filter::lanczos3);
}

Picture resize_cubic(const Picture& picture, Size target) {
  return resized(picture, {0, 0, picture.width, picture.height}, target, Filter::cubic);
}

Picture centre_crop(const Picture& picture, Size target) {
  return resize(picture, centre_box({picture.width, picture.height}, target), target);
}

namespace {

template <typename T>
void to_model(T* y, const std::vector<uint8_t>& rgb) {
  std::transform(rgb.begin(), rgb.end(), y, [](uint8_t v) { return T(v) / T(127.5) - T(1); });
}

template <typename T>
void to_bytes(std::vector<uint8_t>& rgb, const T* x) {
  std::transform(x, x + rgb.size(), rgb.begin(), [](T v) {
    const T scaled = (v + T(1)) * T(127.5);
    if (!std::isfinite(scaled)) return uint8_t{0};
    return static_cast<uint8_t>(std::nearbyint(std::clamp(scaled, T(0), T(255))));
  });
}

void check_pixels(const Tensor& x) {
  CHECK(x.rank() == 3 && x.dim(2) == 3 && x.contiguous(), "pixels: (H, W, 3) contiguous");
  CHECK(x.dtype() == DType::f32 || x.dtype() == DType::f64, "pixels: f32 or f64");
}

}  // namespace

void pixels_to_model(const Tensor& y, const Picture& picture) {
  check_pixels(y);
  CHECK(y.dim(0) == picture.height && y.dim(1) == picture.width, "pixels_to_model: size");
  if (y.dtype() == DType::f64) return to_model(y.as<double>(), picture.rgb);
  to_model(y.as<float>(), picture.rgb);
}

Picture model_to_pixels(const Tensor& x) {
  check_pixels(x);
  Picture picture{static_cast<int>(x.dim(1)), static_cast<int>(x.dim(0)), {}};
  picture.rgb.resize(static_cast<size_t>(x.size()));
  if (x.dtype() == DType::f64) {
    to_bytes(picture.rgb, x.as<double>());
  } else {
    to_bytes(picture.rgb, x.as<float>());
  }
  return picture;
}

}  // namespace fluxlora
