// SPDX-License-Identifier: Apache-2.0
// Aspect buckets: which there are, and which a picture gets.
#include "data/bucket.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

namespace fluxlora {
namespace {

/// What the definition says, counted out: multiples of the step, within the area, as high as it
/// allows or the twin of one that is.
bool belongs(Size size, int64_t side, int64_t step) {
  const auto full = [&](int64_t across, int64_t down) {
    return across * down <= side * side && across * (down + step) > side * side;
  };
  return size.width % step == 0 && size.height % step == 0 &&
         (full(size.width, size.height) || full(size.height, size.width)) &&
         std::max(size.width, size.height) <= 4 * std::min(size.width, size.height);
}

TEST(Buckets, are_all_that_the_definition_allows) {
  for (const auto& [side, step] :
       {std::pair{512, 64}, {768, 64}, {1024, 64}, {128, 16}, {80, 64}}) {
    const std::vector<Size> sizes = buckets(side, step);
    size_t expected = 0;
    for (int width = step; width <= 4 * side; width += step)
      for (int height = step; height <= 4 * side; height += step)
        expected += belongs({width, height}, side, step);
    EXPECT_EQ(sizes.size(), expected) << side << " " << step;
    for (const Size& size : sizes) {
      EXPECT_TRUE(belongs(size, side, step)) << size.width << "x" << size.height;
      EXPECT_NE(std::find(sizes.begin(), sizes.end(), Size{size.height, size.width}), sizes.end());
    }
  }
  EXPECT_TRUE(buckets(48, 64).empty());
}

TEST(Buckets, the_nearest_is_chosen) {
  EXPECT_EQ(nearest_bucket({3000, 3000}, 1024, 64), (Size{1024, 1024}));
  EXPECT_EQ(nearest_bucket({3000, 2000}, 1024, 64), (Size{1216, 832}));
  EXPECT_EQ(nearest_bucket({2000, 3000}, 1024, 64), (Size{832, 1216}));
  EXPECT_EQ(nearest_bucket({1920, 1080}, 1024, 64), (Size{1344, 768}));
  EXPECT_EQ(nearest_bucket({4000, 3000}, 512, 64), (Size{576, 448}));
  EXPECT_EQ(nearest_bucket({10000, 10}, 512, 64), (Size{1024, 256}));
  // Whatever the picture, no other bucket is nearer.
  for (int width = 10; width < 4000; width += 97) {
    const Size source{width, 1000};
    const Size chosen = nearest_bucket(source, 768, 64);
    const auto off = [&](Size s) {
      return std::abs(std::log(double(s.width) / s.height / (width / 1000.0)));
    };
    for (const Size& other : buckets(768, 64)) EXPECT_LE(off(chosen), off(other) + 1e-12);
  }
}

}  // namespace
}  // namespace fluxlora
