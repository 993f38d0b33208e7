// SPDX-License-Identifier: Apache-2.0
// Frozen matrices in 8 bits (flux-facts 2.3).
#pragma once

#include "tensor/tensor.h"

namespace fluxlora {

/// e4m3 with a factor a row: scales[o] = largest magnitude of row o / 448 (1 for a row of zeros),
/// values[o, i] = source[o, i] / scales[o], rounded to nearest even. values (out, in) e4m3, scales
/// (out) f32, source (out, in) f32; contiguous host memory. On all threads.
void quantise_rows(const Tensor& values, const Tensor& scales, const Tensor& source);

}  // namespace fluxlora
