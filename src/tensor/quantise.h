// SPDX-License-Identifier: Apache-2.0
// Frozen matrices in few bits (flux-facts 2.3, 7.8), in the host's memory.
#pragma once

#include "tensor/weight.h"

namespace fluxlora {

/// Writes source (out, in) f32, contiguous, into a weight of fp8, int8 or nf4 whose tensors lie in
/// the host's memory. On all threads.
///   fp8, int8: scales[o] = largest magnitude of row o / 448 or / 127 (1 for a row of zeros),
///   values[o, i] = source[o, i] / scales[o], rounded to nearest even.
///   nf4: as bitsandbytes quantises with compress_statistics.
void quantise(const Weight& w, const Tensor& source);

/// Row `row` of a weight of any format as numbers of `to` (f32 or f64): in of them.
void read_row(DType to, void* destination, const Weight& w, int64_t row);

}  // namespace fluxlora
