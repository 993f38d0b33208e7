// SPDX-License-Identifier: Apache-2.0
// Aspect buckets: rectangles of about one area, so that a picture keeps its shape.
#pragma once

#include <cstdint>
#include <vector>

#include "data/resize.h"

namespace fluxlora {

/// No bucket is longer than this many times its short side.
inline constexpr int kLongestBucket = 4;

/// Every rectangle with sides that are multiples of `step` pixels and an area of at most
/// side * side, as high as its width allows, with its turned twin; ascending. Empty when step is
/// above side. (kohya's sd-scripts cut theirs so, with step 64.)
std::vector<Size> buckets(int64_t side, int64_t step);

/// The bucket whose proportions are nearest to those of `source`, the larger of two that are
/// equally near; step is at most side.
Size nearest_bucket(Size source, int64_t side, int64_t step);

}  // namespace fluxlora
