// SPDX-License-Identifier: Apache-2.0
// The largest number over a block of threads.
#pragma once

#include "backend/cuda/reduce.cuh"

namespace fluxlora::cuda {

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, distance));
  return x;
}

/// Of a block of whole warps; every thread has it. All threads must call it, once in a kernel.
__device__ __forceinline__ float block_max(float x) {
  __shared__ float partial[kWarp];
  x = warp_max(x);
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  if (threadIdx.x % kWarp == 0) partial[warp] = x;
  __syncthreads();
  x = partial[0];
  for (int w = 1; w < warps; ++w) x = fmaxf(x, partial[w]);
  return x;
}

}  // namespace fluxlora::cuda
