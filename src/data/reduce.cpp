// SPDX-License-Identifier: Apache-2.0
#include "data/reduce.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "base/error.h"

namespace fluxlora {
namespace {

double sinc(double x) {
  const double angle = std::numbers::pi * x;
  return x == 0 ? 1 : std::sin(angle) / angle;
}

double lanczos3(double x) {
  return std::abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0;
}

/// Catmull and Rom's (a = -1/2).
double cubic(double x) {
  x = std::abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/// What one pixel of the result is made of: source pixels first, first + 1, ...
struct Taps {
  int first = 0;
  std::vector<float> weights;
};

/// For each of `target` pixels out of `length`. Pixel centres lie at halves.
std::vector<Taps> taps_of(int length, int target, Filter filter) {
  const double scale = double(length) / target;
  const double reach = scale * (filter == Filter::lanczos3 ? 3 : 2);
  std::vector<Taps> all(static_cast<size_t>(target));
  for (int i = 0; i < target; ++i) {
    Taps& taps = all[static_cast<size_t>(i)];
    if (length == target) {
      taps = {i, {1.0F}};
      continue;
    }
    const double middle = (i + 0.5) * scale;
    taps.first = std::max(0, static_cast<int>(std::floor(middle - reach + 0.5)));
    const int end = std::min(length, static_cast<int>(std::floor(middle + reach + 0.5)));
    std::vector<double> weights;
    for (int x = taps.first; x < end; ++x) {
      const double at = (x + 0.5 - middle) / scale;
      weights.push_back(filter == Filter::lanczos3 ? lanczos3(at) : cubic(at));
    }
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (const double weight : weights) taps.weights.push_back(static_cast<float>(weight / sum));
  }
  return all;
}

/// sums[j] = the taps' rows of the box at j.
void add_rows(std::vector<float>& sums, const Picture& picture, const Box& box, const Taps& down) {
  std::fill(sums.begin(), sums.end(), 0.0F);
  for (size_t k = 0; k < down.weights.size(); ++k) {
    const int64_t y = box.y + down.first + static_cast<int64_t>(k);
    const uint8_t* const row = &picture.rgb[static_cast<size_t>((y * picture.width + box.x) * 3)];
    const float weight = down.weights[k];
    float* const sum = sums.data();
    for (size_t j = 0; j < sums.size(); ++j) sum[j] += weight * static_cast<float>(row[j]);
  }
}

uint8_t to_byte(float value) {
  return static_cast<uint8_t>(std::lrint(std::clamp(value, 0.0F, 255.0F)));
}

}  // namespace

Picture reduce(const Picture& picture, const Box& box, Size target, Filter filter) {
  CHECK(target.width > 0 && target.height > 0 && target.width <= box.width &&
            target.height <= box.height,
        "reduce: target");
  const std::vector<Taps> across = taps_of(box.width, target.width, filter);
  const std::vector<Taps> down = taps_of(box.height, target.height, filter);
  Picture result{target.width, target.height, {}};
  result.rgb.reserve(static_cast<size_t>(target.width) * target.height * 3);
  std::vector<float> sums(static_cast<size_t>(box.width) * 3);
  for (const Taps& rows : down) {
    add_rows(sums, picture, box, rows);
    for (const Taps& columns : across) {
      const float* pixel = &sums[static_cast<size_t>(columns.first) * 3];
      float red = 0, green = 0, blue = 0;
      for (const float weight : columns.weights) {
        red += weight * pixel[0];
        green += weight * pixel[1];
        blue += weight * pixel[2];
        pixel += 3;
      }
      result.rgb.insert(result.rgb.end(), {to_byte(red), to_byte(green), to_byte(blue)});
    }
  }
  return result;
}

}  // namespace fluxlora
