// SPDX-License-Identifier: Apache-2.0
// Packs: up to 16 bytes a memory access, as f32 numbers in registers.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace fluxlora::cuda {

using bf16 = __nv_bfloat16;

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(bf16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ float to_float(__half x) {
  return __half2float(x);
}

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}

/// x as a stored T would hold it.
template <typename T>
__device__ __forceinline__ float rounded(float x) {
  return to_float(from_float<T>(x));
}

/// W numbers of memory, aligned to their size or 16 bytes.
template <typename T, int W>
struct alignas(sizeof(T) * W < 16 ? sizeof(T) * W : 16) Pack {
  T v[W];
};

/// Numbers of type T in 16 bytes.
template <typename T>
inline constexpr int kWidth = 16 / static_cast<int>(sizeof(T));

template <int W, typename T>
__device__ __forceinline__ void load(float (&x)[W], const T* from) {
  const Pack<T, W> pack = *reinterpret_cast<const Pack<T, W>*>(from);
#pragma unroll
  for (int i = 0; i < W; ++i) x[i] = to_float(pack.v[i]);
}

template <int W, typename T>
__device__ __forceinline__ void store(T* to, const float (&x)[W]) {
  Pack<T, W> pack;
#pragma unroll
  for (int i = 0; i < W; ++i) pack.v[i] = from_float<T>(x[i]);
  *reinterpret_cast<Pack<T, W>*>(to) = pack;
}

}  // namespace fluxlora::cuda
