// SPDX-License-Identifier: Apache-2.0
// Masks: how much each part of a picture counts in the loss.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "data/resize.h"
#include "tensor/tensor.h"

namespace fluxlora {

/// From 0 (left out) to 1 (counts), by the pixels of an upright picture.
struct Mask {
  int width = 0, height = 0;
  std::vector<float> counts;  ///< (height, width)
};

/// A mask in a file of its own: white counts, black is left out, grey in between; of colours the
/// mean; 8 or 16 bits, or floating point from 0 to 1; a colour profile, transparency and all frames
/// but the first are ignored. The EXIF orientation is applied. Errors as of read_picture, and
/// (bad_input) for a number that is none or out of range.
Mask read_mask(const std::filesystem::path& path);

/// A picture's own transparency: opaque counts. Nothing for a picture without. Errors as of
/// read_picture.
std::optional<Mask> read_alpha(const std::filesystem::path& path);

/// y[r, c] = the mean of the mask over the part of `box` that cell (r, c) covers, pixels on its
/// border by their share. y (h, w) f32, contiguous, host memory; the box lies in the mask.
void average(const Tensor& y, const Mask& mask, const Box& box);

}  // namespace fluxlora
