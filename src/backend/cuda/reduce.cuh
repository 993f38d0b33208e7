// SPDX-License-Identifier: Apache-2.0
// Sums over a warp, a part of it, or a block, always in the same order.
#pragma once

namespace fluxlora::cuda {

inline constexpr unsigned kFullWarp = 0xffffffffu;
inline constexpr int kWarp = 32;

/// The sum over G neighbouring lanes (a power of two); every lane has it, bit for bit the same.
template <int G = kWarp, typename T>
__device__ __forceinline__ T group_sum(T x) {
#pragma unroll
  for (int distance = G / 2; distance > 0; distance /= 2)
    x += __shfl_xor_sync(kFullWarp, x, distance);
  return x;
}

/// Sums of N numbers over all threads of a block of whole warps; every thread has them. All threads
/// must call it.
template <int N, typename T>
__device__ __forceinline__ void block_sum(T (&x)[N]) {
  __shared__ T partial[N][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = group_sum(x[i]);
  if (warps == 1) return;
  __syncthreads();  // the sums of the call before have been read
  if (lane == 0)
#pragma unroll
    for (int i = 0; i < N; ++i) partial[i][warp] = x[i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < N; ++i) {
    x[i] = partial[i][0];
    for (int w = 1; w < warps; ++w) x[i] += partial[i][w];
  }
}

}  // namespace fluxlora::cuda
