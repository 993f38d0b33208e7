// SPDX-License-Identifier: Apache-2.0
#include <cuda_fp8.h>

#include "backend/cuda/elementwise.cuh"
#include "backend/cuda/operand_kernels.h"
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/rows.cuh"

namespace fluxlora::cuda {
namespace {

constexpr float kLargest = 448.0f;  // of e4m3
constexpr int kQuantWidth = 16;     // numbers a thread has at once: 16 bytes of e4m3

__device__ __forceinline__ float block_max(float x) {
  __shared__ float partial[kWarp];
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, distance));
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  if (threadIdx.x % kWarp == 0) partial[warp] = x;
  __syncthreads();
  x = partial[0];
  for (int w = 1; w < warps; ++w) x = fmaxf(x, partial[w]);
  return x;
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
template <int W, typename T>
__global__ void quantise_rows_kernel(uint4* q, float* scales, Rows<const T> x,
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
  const float inverse = largest > 0 ? kLargest / largest : 0;
  if (threadIdx.x == 0) scales[index] = largest > 0 ? largest / kLargest : 1;
  uint4* const to = q + index * (x.columns / kQuantWidth);
  for (int64_t c = threadIdx.x * kQuantWidth; c < x.columns; c += blockDim.x * kQuantWidth) {
    float v[kQuantWidth];
    load_row<W>(v, row, factors, c);
    union {
      uint4 all;
      __nv_fp8x2_storage_t pairs[kQuantWidth / 2];
    } packed;
#pragma unroll
    for (int i = 0; i < kQuantWidth; i += 2)
      packed.pairs[i / 2] = __nv_cvt_float2_to_fp8x2(
          make_float2(v[i] * inverse, v[i + 1] * inverse), __NV_SATFINITE, __NV_E4M3);
    to[c / kQuantWidth] = packed.all;
  }
}

/// The same for rows of any length, a number at a time.
template <typename T>
__global__ void quantise_ragged_rows_kernel(uint8_t* q, float* scales, Rows<const T> x) {
  const T* const row = x.row(0, blockIdx.x);
  float largest = 0;
  for (int64_t c = threadIdx.x; c < x.columns; c += blockDim.x)
    largest = fmaxf(largest, fabsf(to_float(row[c])));
  largest = block_max(largest);
  const float inverse = largest > 0 ? kLargest / largest : 0;
  if (threadIdx.x == 0) scales[blockIdx.x] = largest > 0 ? largest / kLargest : 1;
  for (int64_t c = threadIdx.x; c < x.columns; c += blockDim.x)
    q[blockIdx.x * x.columns + c] =
        __nv_cvt_float_to_fp8(to_float(row[c]) * inverse, __NV_SATFINITE, __NV_E4M3);
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

template <typename T>
__global__ void dequantise_rows_kernel(T* y, const uint32_t* w, const float* scales,
                                       int64_t quads_a_row, int64_t quads) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= quads) return;
  const float scale = scales[i / quads_a_row];
  const uint32_t four = w[i];
  float v[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const auto byte = static_cast<__nv_fp8_storage_t>(four >> (8 * j));
    v[j] = __half2float(__half(__nv_cvt_fp8_to_halfraw(byte, __NV_E4M3))) * scale;
  }
  store<4>(y + 4 * i, v);
}

struct ScaleBias {
  const float* rows;     // null: 1
  const float* columns;  // null: 1
  const bf16* bias;      // null: 0
};

template <int W>
__global__ void scale_product_kernel(Rows<bf16> y, const bf16* product, ScaleBias s, bool add) {
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * W;
  if (column >= y.columns) return;
  float factor[W], bias[W];
#pragma unroll
  for (int i = 0; i < W; ++i) {
    factor[i] = s.columns ? s.columns[column + i] : 1.0f;
    bias[i] = s.bias ? to_float(s.bias[column + i]) : 0.0f;
  }
  for (int64_t r = blockIdx.y; r < y.rows; r += gridDim.y) {
    const float row = s.rows[r];
    float v[W], old[W];
    load<W>(v, product + r * y.columns + column);
    bf16* const to = y.row(0, r) + column;
    if (add) load<W>(old, to);
#pragma unroll
    for (int i = 0; i < W; ++i) {
      v[i] = fmaf(v[i] * factor[i], row, bias[i]);
      if (add) v[i] += old[i];
    }
    store<W>(to, v);
  }
}

template <typename TO, typename TI>
__global__ void scale_matrix_kernel(TO* out, Rows<const TI> a, float value, const float* factor) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.rows * a.columns) return;
  const float by = factor ? value * factor[0] : value;
  out[i] = from_float<TO>(by * to_float(a.row(0, i / a.columns)[i % a.columns]));
}

__global__ void add_scaled_by_kernel(Rows<float> y, const float* x, float value,
                                     const float* factor, bool add) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= y.rows * y.columns) return;
  float* const to = y.row(0, i / y.columns) + i % y.columns;
  const float by = value * factor[0];
  if (add && by != 0)
    *to += by * x[i];
  else if (!add)
    *to = by != 0 ? by * x[i] : 0.0f;
}

__global__ void fill_ones_kernel(float* y, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) y[i] = 1.0f;
}

/// Grid: x walks (tap, channel packs) of a row of columns, y the rows.
template <typename Unit>
__global__ void unfold_kernel(Unit* columns, const Unit* x, Unfold u) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t width = u.kernel_height * u.kernel_width * u.channels;
  if (c >= width) return;
  const int64_t tap = c / u.channels, channel = c % u.channels;
  const int64_t dy = tap / u.kernel_width - u.pad, dx = tap % u.kernel_width - u.pad;
  const int64_t rows = u.count * u.out_width;
  for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    const int64_t row = (u.first + r / u.out_width) * u.stride + dy;
    const int64_t column = r % u.out_width * u.stride + dx;
    const bool inside = row >= 0 && row < u.height && column >= 0 && column < u.width;
    columns[r * width + c] = inside ? x[(row * u.width + column) * u.channels + channel] : Unit{};
  }
}

template <typename Unit>
void unfold_units(cudaStream_t stream, const Tensor& columns, const Tensor& x, Unfold u,
                  int64_t per_unit) {
  u.channels /= per_unit;
  const int64_t width = u.kernel_height * u.kernel_width * u.channels;
  const int threads = std::min(256, whole_warps(width));
  const dim3 grid(blocks_for(width, threads),
                  static_cast<unsigned>(std::min<int64_t>(u.count * u.out_width, 65535)));
  unfold_kernel<<<grid, threads, 0, stream>>>(columns.as<Unit>(), x.as<const Unit>(), u);
  CUDA_CHECK_LAUNCH();
}

}  // namespace

void quantise_rows(cudaStream_t stream, void* q, float* scales, const Tensor& x,
                   const float* factors) {
  for_activations(x.dtype(), [&]<typename T>(T) {
    const Rows<const T> rows(x);
    if (rows.batches * rows.rows == 0) return;
    const unsigned grid = blocks_for(rows.batches * rows.rows, 1);
    if (rows.columns % kQuantWidth != 0) {
      CHECK(!factors && rows.batches == 1, "quantise_rows: " + x.describe());
      quantise_ragged_rows_kernel<<<grid, 128, 0, stream>>>(static_cast<uint8_t*>(q), scales, rows);
      CUDA_CHECK_LAUNCH();
      return;
    }
    const int64_t units = rows.columns / kQuantWidth;
    const int64_t passes = (units + 255) / 256;
    const int threads = whole_warps((units + passes - 1) / passes);
    auto* const to = static_cast<uint4*>(q);
    constexpr int kPack = kWidth<T>;
    if (rows.packs(kPack))
      quantise_rows_kernel<kPack><<<grid, threads, 0, stream>>>(to, scales, rows, factors);
    else
      quantise_rows_kernel<1><<<grid, threads, 0, stream>>>(to, scales, rows, factors);
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
    dequantise_rows_kernel<<<blocks_for(quads, 256), 256, 0, stream>>>(
        y.as<T>(), w.as<const uint32_t>(), scales, w.dim(1) / 4, quads);
  });
  CUDA_CHECK_LAUNCH();
}

void scale_product(cudaStream_t stream, const Tensor& y, const void* product,
                   const float* row_scales, const float* column_scales, const void* bias,
                   bool add) {
  Rows<bf16> to(y);
  CHECK(to.batches == 1, "scale_product: one item at once");
  if (to.rows == 0 || to.columns == 0) return;
  const bool packed = to.packs(8);
  const int64_t packs = packed ? to.columns / 8 : to.columns;
  const int threads = std::min(256, whole_warps(packs));
  const dim3 grid(blocks_for(packs, threads),
                  static_cast<unsigned>(std::min<int64_t>(to.rows, 65535)));
  const ScaleBias s{row_scales, column_scales, static_cast<const bf16*>(bias)};
  const auto* const from = static_cast<const bf16*>(product);
  if (packed)
    scale_product_kernel<8><<<grid, threads, 0, stream>>>(to, from, s, add);
  else
    scale_product_kernel<1><<<grid, threads, 0, stream>>>(to, from, s, add);
  CUDA_CHECK_LAUNCH();
}

void scale_matrix(cudaStream_t stream, const Tensor& out, const Tensor& a, double value,
                  const float* factor) {
  CHECK(out.contiguous(), "scale_matrix: " + out.describe());
  for_activations(out.dtype(), [&]<typename TO>(TO) {
    for_activations(a.dtype(), [&]<typename TI>(TI) {
      scale_matrix_kernel<<<blocks_for(out.size(), 256), 256, 0, stream>>>(
          out.as<TO>(), Rows<const TI>(a), static_cast<float>(value), factor);
    });
  });
  CUDA_CHECK_LAUNCH();
}

void add_scaled_by(cudaStream_t stream, const Tensor& y, const float* x, double value,
                   const float* factor, bool add) {
  add_scaled_by_kernel<<<blocks_for(y.size(), 256), 256, 0, stream>>>(
      Rows<float>(y), x, static_cast<float>(value), factor, add);
  CUDA_CHECK_LAUNCH();
}

void fill_ones(cudaStream_t stream, float* y, int64_t n) {
  fill_ones_kernel<<<blocks_for(n, 256), 256, 0, stream>>>(y, n);
  CUDA_CHECK_LAUNCH();
}

void unfold(cudaStream_t stream, const Tensor& columns, const Tensor& x, const Unfold& u) {
  CHECK(x.dtype() == columns.dtype() && x.contiguous() && columns.contiguous(),
        "unfold: " + x.describe());
  const int64_t per_unit = 16 / dtype_size(x.dtype());
  const bool packed = u.channels % per_unit == 0 &&
                      reinterpret_cast<uintptr_t>(x.data()) % 16 == 0 &&
                      reinterpret_cast<uintptr_t>(columns.data()) % 16 == 0;
  if (packed)
    unfold_units<uint4>(stream, columns, x, u, per_unit);
  else if (dtype_size(x.dtype()) == 4)
    unfold_units<uint32_t>(stream, columns, x, u, 1);
  else
    unfold_units<uint16_t>(stream, columns, x, u, 1);
}

}  // namespace fluxlora::cuda
