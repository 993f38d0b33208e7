// SPDX-License-Identifier: Apache-2.0
#include "data/bucket.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"

namespace fluxlora {

std::vector<Size> buckets(int64_t side, int64_t step) {
  CHECK(side > 0 && step > 0, "buckets: sides");
  std::set<Size> sizes;
  for (int64_t width = step; width <= side * kLongestBucket; width += step) {
    const int64_t height = side * side / width / step * step;
    if (height == 0 || std::max(width, height) > kLongestBucket * std::min(width, height)) continue;
    sizes.insert({static_cast<int>(width), static_cast<int>(height)});
    sizes.insert({static_cast<int>(height), static_cast<int>(width)});
  }
  return {sizes.begin(), sizes.end()};
}

Size nearest_bucket(Size source, int64_t side, int64_t step) {
  const std::vector<Size> sizes = buckets(side, step);
  CHECK(!sizes.empty(), "nearest_bucket: step above side");
  const auto aspect = [](Size s) { return std::log(double(s.width) / s.height); };
  const auto distance = [&](Size s) { return std::abs(aspect(s) - aspect(source)); };
  const auto area = [](Size s) { return int64_t{s.width} * s.height; };
  return *std::min_element(sizes.begin(), sizes.end(), [&](Size a, Size b) {
    const double near = distance(a), far = distance(b);
    return near != far ? near < far : area(a) > area(b);
  });
}

}  // namespace fluxlora
