// SPDX-License-Identifier: Apache-2.0
#include "data/mask.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include <fmt/format.h>
#include <vips/vips8>

#include "base/error.h"
#include "data/open_picture.h"

namespace fluxlora {

namespace fs = std::filesystem;
using vips::VError;
using vips::VImage;

namespace {

constexpr const char* kHint = "save the mask as an 8-bit greyscale PNG, white where it counts";

/// The number that stands for white.
double white_of(const VImage& image, const fs::path& path) {
  switch (image.format()) {
    case VIPS_FORMAT_UCHAR:
      return 255;
    case VIPS_FORMAT_USHORT:
      return 65535;
    case VIPS_FORMAT_FLOAT:
    case VIPS_FORMAT_DOUBLE:
      return 1;
    default:
      throw bad_input(path.string(), "is a mask of a rare kind of numbers", kHint);
  }
}

/// One band of numbers up to `white`.
Mask mask_of(const VImage& band, double white, const fs::path& path) {
  const VImage numbers = (band.cast(VIPS_FORMAT_DOUBLE) / white).cast(VIPS_FORMAT_FLOAT);
  size_t bytes = 0;
  const std::unique_ptr<void, decltype(&g_free)> data(numbers.write_to_memory(&bytes), g_free);
  const auto* first = static_cast<const float*>(data.get());
  Mask mask{numbers.width(), numbers.height(), {first, first + bytes / sizeof(float)}};
  const auto counts = [](float x) { return x >= 0 && x <= 1; };
  const auto bad = std::find_if_not(mask.counts.begin(), mask.counts.end(), counts);
  if (bad != mask.counts.end()) {
    const auto at = bad - mask.counts.begin();
    throw bad_input(path.string(),
                    fmt::format("is a mask with the value {} at column {}, row {}", *bad,
                                at % mask.width, at / mask.width),
                    "values lie between 0 and 1; " + std::string(kHint));
  }
  return mask;
}

/// The whole file, upright.
VImage decode(const Opened& opened) {
  const VImage image = opened.image.copy_memory();
  return opened.orientation > 1 ? image.autorot() : image;
}

/// The mean over [from, to) of at(0), at(1), ..., those at the ends by their share.
template <typename At>
double mean(double from, double to, At at) {
  double sum = 0;
  for (int i = static_cast<int>(from); i < to; ++i)
    sum += at(i) * (std::min(to, i + 1.0) - std::max(from, double(i)));
  return sum / (to - from);
}

}  // namespace

Mask read_mask(const fs::path& path) {
  const Opened opened = open_picture(path, {});
  try {
    const VImage image = decode(opened);
    const int colours = image.bands() - (image.has_alpha() ? 1 : 0);
    if (colours != 1 && colours != 3) {
      throw bad_input(path.string(), fmt::format("is a mask of {} colours", colours), kHint);
    }
    const VImage grey =
        image.extract_band(0, VImage::option()->set("n", colours)).cast(VIPS_FORMAT_DOUBLE);
    return mask_of(grey.bandmean(), white_of(image, path), path);
  } catch (const VError&) {
    throw unreadable(path, opened.heif, "is damaged or cut off");
  }
}

std::optional<Mask> read_alpha(const fs::path& path) {
  const Opened opened = open_picture(path, {});
  if (!opened.image.has_alpha()) return std::nullopt;
  try {
    return mask_of(alpha_band(decode(opened)), 255, path);
  } catch (const VError&) {
    throw unreadable(path, opened.heif, "is damaged or cut off");
  }
}

void average(const Tensor& y, const Mask& mask, const Box& box) {
  CHECK(y.rank() == 2 && y.contiguous() && y.dtype() == DType::f32, "average: y");
  CHECK(box.x >= 0 && box.y >= 0 && box.width > 0 && box.height > 0 &&
            box.x + box.width <= mask.width && box.y + box.height <= mask.height,
        "average: the box lies inside the mask");
  // The last border is exact: an integer product divided by one of its factors.
  const auto across = [&](int64_t c) { return box.x + double(c * box.width) / double(y.dim(1)); };
  const auto down = [&](int64_t r) { return box.y + double(r * box.height) / double(y.dim(0)); };
  for (int64_t r = 0; r < y.dim(0); ++r) {
    for (int64_t c = 0; c < y.dim(1); ++c) {
      const auto row = [&](int j) {
        const float* counts = mask.counts.data() + int64_t{j} * mask.width;
        return mean(across(c), across(c + 1), [&](int i) { return double{counts[i]}; });
      };
      y.as<float>()[r * y.dim(1) + c] = static_cast<float>(mean(down(r), down(r + 1), row));
    }
  }
}

}  // namespace fluxlora
