// SPDX-License-Identifier: Apache-2.0
#include <cuda_fp8.h>

#include "backend/cuda/block_max.cuh"
#include "backend/cuda/row_codes.h"
#include "backend/cuda/rows.cuh"

namespace fluxlora::cuda {
namespace {

constexpr int kQuantWidth = 16;  // numbers a thread has at once: 16 bytes of codes

struct E4m3 {
  static constexpr float kLargest = 448;
  static __device__ __forceinline__ uint8_t encode(float x) {
    return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
  }
  static __device__ __forceinline__ uint16_t encode(float first, float second) {
    return __nv_cvt_float2_to_fp8x2(make_float2(first, second), __NV_SATFINITE, __NV_E4M3);
  }
  static __device__ __forceinline__ float decode(uint8_t code) {
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3)));
  }
};

struct Int8 {
  static constexpr float kLargest = 127;
  static __device__ __forceinline__ uint8_t encode(float x) {
    return static_cast<uint8_t>(static_cast<int8_t>(__float2int_rn(x)));
  }
  static __device__ __forceinline__ uint16_t encode(float first, float second) {
    return static_cast<uint16_t>(encode(first) | encode(second) << 8);
  }
  static __device__ __forceinline__ float decode(uint8_t code) {
    return static_cast<float>(static_cast<int8_t>(code));
  }
};

/// Calls f(E4m3{}) or f(Int8{}).
template <typename F>
void for_codes(DType code, F&& f) {
  if (code == DType::i8) return f(Int8{});
  CHECK(code == DType::f8_e4m3, "codes are e4m3 or int8");
  f(E4m3{});
}

/// 16 numbers of a row, times factors where there are any. W: numbers an access.
template <int W, typename T>
__device__ __forceinline__ void load_row(float (&v)[kQuantWidth], const T* row,
                                         const float* factors, int64_t column) {
#pragma unroll
  for (int i = 0; i < kQuantWidth; i += W) {
    float part[W];
    load<W>(part, row + column + i);
#pragma unroll
    for (int j = 0; j < W; ++j) v[i + j] = part[j];
  }
  if (!factors) return;
#pragma unroll
  for (int i = 0; i < kQuantWidth; i += 4) {
    float part[4];
    load<4>(part, factors + column + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) v[i + j] *= part[j];
  }
}

/// One block a row. The row is read twice, the second time from the caches.
template <int W, typename Code, typename T>
__global__ void quantise_rows_kernel(Code, uint4* q, float* scales, Rows<const T> x,
                                     const float* factors) {
  const int64_t index = blockIdx.x;
  const T* const row = x.row(index / x.rows, index % x.rows);
  float largest = 0;
  for (int64_t c = threadIdx.x * kQuantWidth; c < x.columns; c += blockDim.x * kQuantWidth) {
    float v[kQuantWidth];
    load_row<W>(v, row, factors, c);
#pragma unroll
    for (int i = 0; i < kQuantWidth; ++i) largest = fmaxf(largest, fabsf(v[i]));
  }
  largest = block_max(largest);
  const float inverse = largest > 0 ? Code::kLargest / largest : 0;
  if (threadIdx.x == 0) scales[index] = largest > 0 ? largest / Code::kLargest : 1;
  uint4* const to = q + index * (x.columns / kQuantWidth);
  for (int64_t c = threadIdx.x * kQuantWidth; c < x.columns; c += blockDim.x * kQuantWidth) {
    float v[kQuantWidth];
    load_row<W>(v, row, factors, c);
    union {
      uint4 all;
      uint16_t pairs[kQuantWidth / 2];
    } packed;
#pragma unroll
    for (int i = 0; i < kQuantWidth; i += 2)
      packed.pairs[i / 2] = Code::encode(v[i] * inverse, v[i + 1] * inverse);
    to[c / kQuantWidth] = packed.all;
  }
}

/// The same for rows of any length, a number at a time.
template <typename Code, typename T>
__global__ void quantise_ragged_rows_kernel(Code, uint8_t* q, float* scales, Rows<const T> x) {
  const T* const row = x.row(0, blockIdx.x);
  float largest = 0;
  for (int64_t c = threadIdx.x; c < x.columns; c += blockDim.x)
    largest = fmaxf(largest, fabsf(to_float(row[c])));
  largest = block_max(largest);
  const float inverse = largest > 0 ? Code::kLargest / largest : 0;
  if (threadIdx.x == 0) scales[blockIdx.x] = largest > 0 ? largest / Code::kLargest : 1;
  for (int64_t c = threadIdx.x; c < x.columns; c += blockDim.x)
    q[blockIdx.x * x.columns + c] = Code::encode(to_float(row[c]) * inverse);
}

constexpr int kTile = 64;

/// A block turns 64 x 64 bytes: 16 bytes a thread from memory, and 16 to it.
__global__ void transpose_bytes_kernel(uint8_t* out, const uint8_t* in, int64_t rows,
                                       int64_t columns) {
  __shared__ uint8_t tile[kTile][kTile + 4];
  const int line = threadIdx.x / 4, part = threadIdx.x % 4 * 16;
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t column0 = static_cast<int64_t>(blockIdx.x) * kTile;
  if (row0 + line < rows && column0 + part < columns) {
    const uint4 v = *reinterpret_cast<const uint4*>(in + (row0 + line) * columns + column0 + part);
    auto* const words = reinterpret_cast<uint32_t*>(&tile[line][part]);
    words[0] = v.x;
    words[1] = v.y;
    words[2] = v.z;
    words[3] = v.w;
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

template <typename Code, typename T>
__global__ void dequantise_rows_kernel(Code, T* y, const uint32_t* w, const float* scales,
                                       int64_t quads_a_row, int64_t quads) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= quads) return;
  const float scale = scales[i / quads_a_row];
  const uint32_t four = w[i];
  float v[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] = Code::decode(static_cast<uint8_t>(four >> (8 * j))) * scale;
  store<4>(y + 4 * i, v);
}

template <typename P>
struct Scaled {
  const P* product;
  const float* rows;
  const float* columns;  // null: 1
  const bf16* bias;      // null: 0
};

/// W numbers of a product. An i32 becomes the nearest float.
template <int W, typename P>
__device__ __forceinline__ void load_product(float (&v)[W], const P* from) {
  const Pack<P, W> pack = *reinterpret_cast<const Pack<P, W>*>(from);
#pragma unroll
  for (int i = 0; i < W; ++i) v[i] = static_cast<float>(pack.v[i]);
}

/// Grid: x walks columns, y the rows [first, first + count).
template <int W, typename P>
__global__ void scale_product_kernel(Rows<bf16> y, int64_t first, int64_t count, Scaled<P> s,
                                     bool add) {
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * W;
  if (column >= y.columns) return;
  float factor[W], bias[W];
#pragma unroll
  for (int i = 0; i < W; ++i) {
    factor[i] = s.columns ? s.columns[column + i] : 1.0f;
    bias[i] = s.bias ? to_float(s.bias[column + i]) : 0.0f;
  }
  for (int64_t r = blockIdx.y; r < count; r += gridDim.y) {
    const float row = s.rows[r];
    const int64_t item = y.batches == 1 ? 0 : (first + r) / y.rows;
    bf16* const to = y.row(item, first + r - item * y.rows) + column;
    float v[W], old[W];
    load_product<W>(v, s.product + r * y.columns + column);
    if (add) load<W>(old, to);
#pragma unroll
    for (int i = 0; i < W; ++i) {
      v[i] = fmaf(v[i] * factor[i], row, bias[i]);
      if (add) v[i] += old[i];
    }
    store<W>(to, v);
  }
}

template <typename P>
void scale_product_of(cudaStream_t stream, const Rows<bf16>& to, int64_t first, int64_t count,
                      const CodeProduct& p, bool add) {
  const bool packed = to.packs(8);
  const int64_t packs = packed ? to.columns / 8 : to.columns;
  const int threads = std::min(256, whole_warps(packs));
  const dim3 grid(blocks_for(packs, threads),
                  static_cast<unsigned>(std::min<int64_t>(count, 65535)));
  const Scaled<P> s{static_cast<const P*>(p.values), p.rows, p.columns,
                    static_cast<const bf16*>(p.bias)};
  if (packed)
    scale_product_kernel<8><<<grid, threads, 0, stream>>>(to, first, count, s, add);
  else
    scale_product_kernel<1><<<grid, threads, 0, stream>>>(to, first, count, s, add);
  CUDA_CHECK_LAUNCH();
}

}  // namespace

void quantise_rows(cudaStream_t stream, DType code, void* q, float* scales, const Tensor& x,
                   const float* factors) {
  for_activations(x.dtype(), [&]<typename T>(T) {
    const Rows<const T> rows(x);
    if (rows.batches * rows.rows == 0) return;
    const unsigned grid = blocks_for(rows.batches * rows.rows, 1);
    for_codes(code, [&](auto codes) {
      if (rows.columns % kQuantWidth != 0) {
        CHECK(!factors && rows.batches == 1, "quantise_rows: " + x.describe());
        quantise_ragged_rows_kernel<<<grid, 128, 0, stream>>>(codes, static_cast<uint8_t*>(q),
                                                              scales, rows);
        return;
      }
      const int64_t units = rows.columns / kQuantWidth;
      const int64_t passes = (units + 255) / 256;
      const int threads = whole_warps((units + passes - 1) / passes);
      auto* const to = static_cast<uint4*>(q);
      constexpr int kPack = kWidth<T>;
      if (rows.packs(kPack))
        quantise_rows_kernel<kPack><<<grid, threads, 0, stream>>>(codes, to, scales, rows, factors);
      else
        quantise_rows_kernel<1><<<grid, threads, 0, stream>>>(codes, to, scales, rows, factors);
    });
    CUDA_CHECK_LAUNCH();
  });
}

void transpose_bytes(cudaStream_t stream, void* out, const void* in, int64_t rows,
                     int64_t columns) {
  CHECK(rows % 16 == 0 && columns % 16 == 0, "transpose_bytes: multiples of 16");
  const dim3 grid(blocks_for(columns, kTile), blocks_for(rows, kTile));
  transpose_bytes_kernel<<<grid, 256, 0, stream>>>(static_cast<uint8_t*>(out),
                                                   static_cast<const uint8_t*>(in), rows, columns);
  CUDA_CHECK_LAUNCH();
}

void dequantise_rows(cudaStream_t stream, const Tensor& y, const Tensor& w, const float* scales) {
  CHECK(y.contiguous() && w.contiguous() && w.dim(1) % 4 == 0, "dequantise_rows: " + w.describe());
  const int64_t quads = w.size() / 4;
  for_activations(y.dtype(), [&]<typename T>(T) {
    for_codes(w.dtype(), [&](auto codes) {
      dequantise_rows_kernel<<<blocks_for(quads, 256), 256, 0, stream>>>(
          codes, y.as<T>(), w.as<const uint32_t>(), scales, w.dim(1) / 4, quads);
    });
  });
  CUDA_CHECK_LAUNCH();
}

void scale_product(cudaStream_t stream, const Tensor& y, int64_t first, int64_t count,
                   const CodeProduct& product, bool add) {
  const Rows<bf16> to(y);
  if (count == 0 || to.columns == 0) return;
  if (product.dtype == DType::i32)
    scale_product_of<int32_t>(stream, to, first, count, product, add);
  else
    scale_product_of<bf16>(stream, to, first, count, product, add);
}

}  // namespace fluxlora::cuda
