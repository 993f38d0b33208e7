// SPDX-License-Identifier: Apache-2.0
#include <cuda_fp8.h>

#include "backend/cuda/block_max.cuh"
#include "backend/cuda/nf4.h"
#include "backend/cuda/rows.cuh"
#include "tensor/nf4.h"

namespace fluxlora::cuda {
namespace {

__constant__ Nf4Tables tables = make_nf4_tables();

constexpr int kThreads = 256;

/// The count of bounds below x / largest.
__device__ __forceinline__ int code_of(const float* bounds, int count, float x, float inverse) {
  const float v = fminf(fmaxf(x * inverse, -1.0f), 1.0f);
  int first = 0;
  while (first < count) {
    const int middle = (first + count) / 2;
    if (bounds[middle] < v)
      first = middle + 1;
    else
      count = middle;
  }
  return first;
}

__device__ __forceinline__ float inverse_of(float largest) {
  return largest > 0 ? 1 / largest : 0;
}

/// A warp a block of 64, two neighbouring numbers a thread. The last block may be short.
template <typename T>
__global__ void quantise_blocks_kernel(uint8_t* values, float* largest, const T* x, int64_t count) {
  const int64_t at = 2 * (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x);
  const bool inside = at < count;  // count is even
  const float first = inside ? to_float(x[at]) : 0, second = inside ? to_float(x[at + 1]) : 0;
  const float most = warp_max(fmaxf(fabsf(first), fabsf(second)));
  if (!inside) return;
  const float inverse = inverse_of(most);
  values[at / 2] = static_cast<uint8_t>(code_of(tables.code_bounds, 15, first, inverse) << 4 |
                                        code_of(tables.code_bounds, 15, second, inverse));
  if (threadIdx.x % kWarp == 0) largest[at / kNf4Block] = most;
}

/// One block of threads; the sum is taken in f64, in a fixed order.
__global__ void mean_kernel(float* mean, const float* x, int64_t count) {
  double sum[1] = {0};
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum[0] += x[i];
  block_sum(sum);
  if (threadIdx.x == 0) *mean = static_cast<float>(sum[0] / static_cast<double>(count));
}

/// One block of 256 threads for 256 magnitudes.
__global__ void quantise_magnitudes_kernel(uint8_t* codes, float* scales, const float* mean,
                                           const float* largest, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const float x = i < count ? largest[i] - *mean : 0;
  const float most = block_max(fabsf(x));
  if (threadIdx.x == 0) scales[blockIdx.x] = most;
  if (i < count)
    codes[i] = static_cast<uint8_t>(code_of(tables.nested_bounds, 255, x, inverse_of(most)));
}

/// A weight as kernels see it.
struct Nf4 {
  const uint8_t* values;
  const uint8_t* blocks;
  const float* scales;
  int64_t nested;

  explicit Nf4(const Weight& w)
      : values(w.values.as<const uint8_t>()),
        blocks(w.blocks.as<const uint8_t>()),
        scales(w.scales.as<const float>()),
        nested(w.scales.size() - 1) {}

  /// The magnitude by which the codes of number `at` are multiplied.
  __device__ __forceinline__ float largest(int64_t at) const {
    const int64_t block = at / kNf4Block;
    return __fadd_rn(__fmul_rn(tables.nested[blocks[block]], scales[block / kNf4Nested]),
                     scales[nested]);
  }
};

/// Codes are looked up in shared memory, where 16 numbers lie in banks of their own.
__device__ __forceinline__ void fill_codes(float (&codes)[16]) {
  if (threadIdx.x < 16) codes[threadIdx.x] = tables.code[threadIdx.x];
  __syncthreads();
}

/// Eight numbers from `at` on, a multiple of 8, over their magnitude. The first is in the high half
/// of the first byte.
__device__ __forceinline__ void load_eight(float (&v)[8], const Nf4& w, const float (&codes)[16],
                                           int64_t at) {
  const uint32_t packed = *reinterpret_cast<const uint32_t*>(w.values + at / 2);
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = codes[packed >> (8 * (i / 2) + (i % 2 == 0 ? 4 : 0)) & 15];
}

template <typename T>
__global__ void dequantise_kernel(T* y, Nf4 w, int64_t count) {
  __shared__ float codes[16];
  fill_codes(codes);
  const int64_t at = 8 * (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x);
  if (at >= count) return;
  const float largest = w.largest(at);
  if (at + 8 <= count) {
    float v[8];
    load_eight(v, w, codes, at);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] *= largest;
    return store<8>(y + at, v);
  }
  for (int64_t i = at; i < count; ++i) {
    const int byte = w.values[i / 2];
    y[i] = from_float<T>(codes[i % 2 == 0 ? byte >> 4 : byte & 15] * largest);
  }
}

/// One block of threads a row, eight numbers a thread at once.
__global__ void dequantise_to_fp8_kernel(uint2* out, float* scales, Nf4 w, int64_t columns) {
  __shared__ float codes[16];
  fill_codes(codes);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * columns;
  float most = 0;
  for (int64_t c = 8 * threadIdx.x; c < columns; c += 8 * blockDim.x)
    most = fmaxf(most, fabsf(w.largest(row + c)));
  most = block_max(most);
  constexpr float kLargest = 448;  // of e4m3
  const float inverse = most > 0 ? kLargest / most : 0;
  if (threadIdx.x == 0) scales[blockIdx.x] = most > 0 ? most / kLargest : 1;
  for (int64_t c = 8 * threadIdx.x; c < columns; c += 8 * blockDim.x) {
    float v[8];
    load_eight(v, w, codes, row + c);
    const float by = w.largest(row + c) * inverse;
    union {
      uint2 all;
      __nv_fp8x2_storage_t pairs[4];
    } packed;
#pragma unroll
    for (int i = 0; i < 8; i += 2)
      packed.pairs[i / 2] = __nv_cvt_float2_to_fp8x2(make_float2(v[i] * by, v[i + 1] * by),
                                                     __NV_SATFINITE, __NV_E4M3);
    out[(row + c) / 8] = packed.all;
  }
}

}  // namespace

void quantise_nf4(cudaStream_t stream, const Weight& w, const Tensor& x, float* largest) {
  const int64_t count = w.out() * w.in(), blocks = w.blocks.size();
  CHECK(x.contiguous() && x.size() == count, "quantise_nf4: " + x.describe());
  float* const scales = w.scales.as<float>();
  float* const mean = scales + w.scales.size() - 1;
  for_activations(x.dtype(), [&]<typename T>(T) {
    quantise_blocks_kernel<<<blocks_for(count / 2, kThreads), kThreads, 0, stream>>>(
        w.values.as<uint8_t>(), largest, x.as<const T>(), count);
  });
  CUDA_CHECK_LAUNCH();
  mean_kernel<<<1, 1024, 0, stream>>>(mean, largest, blocks);
  CUDA_CHECK_LAUNCH();
  quantise_magnitudes_kernel<<<blocks_for(blocks, kNf4Nested), kNf4Nested, 0, stream>>>(
      w.blocks.as<uint8_t>(), scales, mean, largest, blocks);
  CUDA_CHECK_LAUNCH();
}

void dequantise_nf4(cudaStream_t stream, const Tensor& y, const Weight& w) {
  const int64_t count = w.out() * w.in();
  CHECK(y.contiguous() && y.size() == count, "dequantise_nf4: " + y.describe());
  for_activations(y.dtype(), [&]<typename T>(T) {
    dequantise_kernel<<<blocks_for(count, 8 * kThreads), kThreads, 0, stream>>>(y.as<T>(), Nf4(w),
                                                                                count);
  });
  CUDA_CHECK_LAUNCH();
}

void dequantise_nf4_to_fp8(cudaStream_t stream, void* codes, float* scales, const Weight& w) {
  CHECK(w.in() % 8 == 0, "dequantise_nf4_to_fp8: " + w.values.describe());
  const int64_t packs = w.in() / 8, passes = (packs + 511) / 512;
  dequantise_to_fp8_kernel<<<blocks_for(w.out(), 1), whole_warps((packs + passes - 1) / passes), 0,
                             stream>>>(static_cast<uint2*>(codes), scales, Nf4(w), w.in());
  CUDA_CHECK_LAUNCH();
}

}  // namespace fluxlora::cuda
