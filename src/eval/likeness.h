// SPDX-License-Identifier: Apache-2.0
// How alike two pictures are: in the VAE's latents, and in their colours.
#pragma once

#include "data/picture.h"
#include "tensor/tensor.h"

namespace fluxlora::eval {

/// Pearson's correlation of two tensors' elements, in [-1, 1]; 0 when one of them is constant.
/// Latents of equal size, f32, host memory.
double correlation(const Tensor& a, const Tensor& b);

/// sqrt(mean (a - b)²), of the same.
double rms_difference(const Tensor& a, const Tensor& b);

/// What a LoRA did to a picture that should have stayed as it was.
struct PictureChange {
  double spill = 0;       ///< distance of the mean colours, 1 from black to white
  double distortion = 0;  ///< 1 - correlation of the luminances: 0 the same forms, 1 unrelated ones
};

/// Of two pictures of one size. Luminance is Rec. 601's 0.299 R + 0.587 G + 0.114 B.
PictureChange picture_change(const Picture& before, const Picture& after);

}  // namespace fluxlora::eval
