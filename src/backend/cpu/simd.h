// SPDX-License-Identifier: Apache-2.0
// Sums that the compiler can vectorise without -ffast-math (needs -fopenmp-simd, no runtime).
#pragma once

#include "backend/cpu/elementary.h"

namespace fluxlora {

/// Σ term(i) for i in [0, n), in as many partial sums as the machine has lanes.
template <typename T, typename F>
[[gnu::always_inline]] inline T sum_of(int64_t n, F&& term) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += term(i);
  return sum;
}

}  // namespace fluxlora
