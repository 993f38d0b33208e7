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

constexpr float kLargest = 448;  // of e4m3

__device__ __forceinline__ float row_scale(float most) {
  return most > 0 ? most / kLargest : 1;
}

/// The e4m3 codes of two neighbouring numbers.
__device__ __forceinline__ __nv_fp8x2_storage_t fp8_pair(float first, float second) {
  return __nv_cvt_float2_to_fp8x2(make_float2(first, second), __NV_SATFINITE, __NV_E4M3);
}

/// The largest magnitude of a row's blocks, over all threads of a block.
__device__ __forceinline__ float row_most(const Nf4& w, int64_t row, int64_t columns) {
  float most = 0;
  for (int64_t c = 8 * threadIdx.x; c < columns; c += 8 * blockDim.x)
    most = fmaxf(most, fabsf(w.largest(row * columns + c)));
  return block_max(most);
}

__global__ void row_scales_kernel(float* scales, Nf4 w, int64_t columns) {
  const float most = row_most(w, blockIdx.x, columns);
  if (threadIdx.x == 0) scales[blockIdx.x] = row_scale(most);
}

/// One block of threads a row, eight numbers a thread at once.
__global__ void dequantise_to_fp8_kernel(uint2* out, float* scales, Nf4 w, int64_t columns) {
  __shared__ float codes[16];
  fill_codes(codes);
  const float scale = row_scale(row_most(w, blockIdx.x, columns));
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * columns;
  for (int64_t c = 8 * threadIdx.x; c < columns; c += 8 * blockDim.x) {
    float v[8];
    load_eight(v, w, codes, row + c);
    const float by = w.largest(row + c) / scale;
    union {
      uint2 all;
      __nv_fp8x2_storage_t pairs[4];
    } packed;
#pragma unroll
    for (int i = 0; i < 8; i += 2) packed.pairs[i / 2] = fp8_pair(v[i] * by, v[i + 1] * by);
    out[(row + c) / 8] = packed.all;
  }
}

constexpr int kTile = 64;

/// The same turned round, of rows whose scales are known: a block of 256 threads turns 64 x 64
/// numbers, 16 a thread from memory and 16 to it.
__global__ void dequantise_turned_kernel(uint8_t* out, const float* scales, Nf4 w, int64_t rows,
                                         int64_t columns) {
  __shared__ float codes[16];
  __shared__ uint8_t tile[kTile][kTile + 4];
  fill_codes(codes);
  const int line = threadIdx.x / 4, part = threadIdx.x % 4 * 16;
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t column0 = static_cast<int64_t>(blockIdx.x) * kTile;
  if (row0 + line < rows && column0 + part < columns) {
    const int64_t at = (row0 + line) * columns + column0 + part;
    const float by = w.largest(at) / scales[row0 + line];
#pragma unroll
    for (int i = 0; i < 16; i += 8) {
      float v[8];
      load_eight(v, w, codes, at + i);
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        const __nv_fp8x2_storage_t pair = fp8_pair(v[j] * by, v[j + 1] * by);
        tile[line][part + i + j] = static_cast<uint8_t>(pair & 255);
        tile[line][part + i + j + 1] = static_cast<uint8_t>(pair >> 8);
      }
    }
  }
  __syncthreads();
  if (column0 + line >= columns || row0 + part >= rows) return;
  union {
    uint4 all;
    uint8_t bytes[16];
  } turned;
#pragma unroll
  for (int i = 0; i < 16; ++i) turned.bytes[i] = tile[part + i][line];
  *reinterpret_cast<uint4*>(out + (column0 + line) * rows + row0 + part) = turned.all;
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

void dequantise_nf4_to_fp8(cudaStream_t stream, void* codes, float* scales, const Weight& w,
                           bool turn) {
  const int64_t rows = w.out(), columns = w.in();
  CHECK(rows % 16 == 0 && columns % 16 == 0, "dequantise_nf4_to_fp8: " + w.values.describe());
  const int64_t packs = columns / 8, passes = (packs + 511) / 512;
  const int threads = whole_warps((packs + passes - 1) / passes);
  if (!turn) {
    dequantise_to_fp8_kernel<<<blocks_for(rows, 1), threads, 0, stream>>>(
        static_cast<uint2*>(codes), scales, Nf4(w), columns);
  } else {
    row_scales_kernel<<<blocks_for(rows, 1), threads, 0, stream>>>(scales, Nf4(w), columns);
    const dim3 grid(blocks_for(columns, kTile), blocks_for(rows, kTile));
    dequantise_turned_kernel<<<grid, 256, 0, stream>>>(static_cast<uint8_t*>(codes), scales, Nf4(w),
                                                       rows, columns);
  }
  CUDA_CHECK_LAUNCH();
}

}  // namespace fluxlora::cuda
