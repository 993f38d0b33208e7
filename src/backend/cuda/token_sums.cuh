// SPDX-License-Identifier: Apache-2.0
// Sums over tokens in two stages: each block adds the tokens of one chunk, then the chunks are
// added in a fixed order. No atomics.
#pragma once

#include "backend/cuda/context.h"
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/rows.cuh"

namespace fluxlora::cuda {

/// Tokens of a chunk.
inline constexpr int64_t kSumTokens = 16;
/// Sums that one pass may take.
inline constexpr int kTokenSums = 3;

template <typename T>
struct TokenSums {
  Rows<T> to[kTokenSums];  // (B, D) each, or empty
};

inline int64_t sum_chunks(int64_t tokens) {
  return (tokens + kSumTokens - 1) / kSumTokens;
}

/// to[z] (B, D) = the sum over chunks of partial (B, chunks, kTokenSums, D). A block has 32 columns
/// and adds every 16th chunk in one of 16 warps. Grid: x columns, y items, z sums.
template <typename T>
__global__ void finish_sums_kernel(TokenSums<T> sums, const float* partial, int64_t chunks) {
  constexpr int kWarps = 16;
  __shared__ float warp_sum[kWarps][kWarp];
  const Rows<T>& to = sums.to[blockIdx.z];
  if (!to) return;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t n = to.columns, b = blockIdx.y;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  float sum = 0;
  if (column < n) {
    const float* const from = partial + (b * chunks * kTokenSums + blockIdx.z) * n + column;
#pragma unroll 4
    for (int64_t c = warp; c < chunks; c += kWarps) sum += from[c * kTokenSums * n];
  }
  warp_sum[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= n) return;
  for (int w = 1; w < kWarps; ++w) sum += warp_sum[w][lane];
  to.row(0, b)[column] = from_float<T>(sum);
}

/// Work memory for the partial sums of a call over (items, tokens, columns).
inline float* partial_sums(Context& context, int64_t items, int64_t tokens, int64_t columns) {
  return context.scratch<float>(Slot::sums, items * sum_chunks(tokens) * kTokenSums * columns);
}

template <typename T>
void finish_sums(cudaStream_t stream, const TokenSums<T>& sums, const float* partial, int64_t items,
                 int64_t tokens) {
  int64_t columns = 0;
  for (const Rows<T>& to : sums.to) columns = std::max(columns, to.columns);
  if (columns == 0 || items == 0) return;
  const dim3 grid(blocks_for(columns, kWarp), static_cast<unsigned>(items), kTokenSums);
  finish_sums_kernel<<<grid, 512, 0, stream>>>(sums, partial, sum_chunks(tokens));
  CUDA_CHECK_LAUNCH();
}

}  // namespace fluxlora::cuda
