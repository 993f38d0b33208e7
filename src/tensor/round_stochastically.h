// SPDX-License-Identifier: Apache-2.0
// Rounding that loses nothing on average.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace fluxlora {

/// codes = source / scale, rounded to one of the two neighbours in codes' type so that the mean is
/// the number itself: up with the probability that it lies above the lower one. A change far below
/// the type's step then survives in the mean over many weights, where rounding to nearest drops it
/// (Croci et al. 2022). A number that the type holds stays as it is. e4m3 saturates at 448.
/// codes (out, in) e4m3, bf16 or f16, source (out, in) f32, contiguous host memory. Row r of matrix
/// `matrix` draws from counters of its own: the result depends on neither threads nor order.
void round_stochastically(const Tensor& codes, const Tensor& source, float scale, uint64_t seed,
                          uint32_t matrix);

}  // namespace fluxlora
