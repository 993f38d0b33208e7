// SPDX-License-Identifier: Apache-2.0
// Inside this room only: pictures made smaller by a filter.
#pragma once

#include "data/resize.h"

namespace fluxlora {

enum class Filter { lanczos3, cubic };

/// `box` of the picture at size `target`, which is nowhere larger than the box, in the way of
/// Pillow: the filter is stretched by the reduction, cut off at the edges of the box, and its
/// weights sum up to 1; a side of equal length stays as it is. Sums are in f32, and rounded to
/// nearest once. (libvips sums in f64, a tap at a time: some ten times as long.)
Picture reduce(const Picture& picture, const Box& box, Size target, Filter filter);

}  // namespace fluxlora
