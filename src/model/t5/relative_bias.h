// SPDX-License-Identifier: Apache-2.0
// T5's positions: a learned number per head and distance, added to the scores of attention.
#pragma once

#include <cstdint>

#include "model/t5/config.h"
#include "tensor/tensor.h"

namespace fluxlora::t5 {

/// The bucket of delta = key - query (flux-facts 5.2): half of the buckets for each direction, half
/// of those for one distance each, the others logarithmic up to max_distance.
int64_t bucket(int64_t delta, int64_t buckets, int64_t max_distance);

/// bias[h, i, j] = table[bucket(j - i), h].  bias (H, L, L), table (buckets, H): contiguous host
/// memory, of one dtype.
void fill_bias(const Tensor& bias, const Tensor& table, const T5Config& config);

}  // namespace fluxlora::t5
