// SPDX-License-Identifier: Apache-2.0
// What adapters need beside products: dropout, and DoRA's scaling of rows.
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/rows.cuh"
#include "base/philox.h"
#include "ops/checks.h"

namespace fluxlora::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSumWarps = 16;  // rows that a block adds at a time

/// Four neighbouring elements a thread: one block of random words. Grid: x packs of all elements.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(Rows<T> x, const int32_t* draw, uint32_t purpose, uint32_t threshold,
                   float kept) {
  if (draw[0] == 0) return;
  const int64_t pack = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t count = x.batches * x.rows * x.columns;
  if (4 * pack >= count) return;
  const Philox::Block words =
      Philox::block({static_cast<uint32_t>(pack), purpose, static_cast<uint32_t>(draw[3]),
                     static_cast<uint32_t>(draw[4])},
                    {static_cast<uint32_t>(draw[1]), static_cast<uint32_t>(draw[2])});
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const int64_t i = 4 * pack + n;
    if (i >= count) return;
    const int64_t row = i / x.columns, b = row / x.rows;
    T& value = x.row(b, row % x.rows)[i % x.columns];
    value = from_float<T>(words[n] < threshold ? 0.0f : to_float(value) * kept);
  }
}

/// Grid: rows of W.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    gain_kernel(float* gain, Rows<T> scaled_b, const float* magnitude, const float* square,
                Rows<const T> cross, Rows<const T> second, Rows<const T> b, float s) {
  const int64_t o = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (o >= b.rows) return;
  float sum = square[o];
  for (int64_t r = 0; r < b.columns; ++r)
    sum += s * to_float(b.row(0, o)[r]) *
           (2.0f * to_float(cross.row(0, r)[o]) + s * to_float(second.row(0, o)[r]));
  const float g = magnitude[o] / sqrtf(sum);
  gain[o] = g;
  for (int64_t r = 0; r < b.columns; ++r)
    scaled_b.row(0, o)[r] = from_float<T>(g * to_float(b.row(0, o)[r]));
}

/// Grid: x columns, y rows, z items.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    scale_kernel(Rows<T> y, const T* bias, const float* gain, const float* multiplier) {
  const float m = *multiplier;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (m == 0.0f || c >= y.columns) return;
  const float factor = m * (gain[c] - 1.0f), b = bias ? to_float(bias[c]) : 0.0f;
  for (int64_t item = blockIdx.z; item < y.batches; item += gridDim.z)
    for (int64_t r = blockIdx.y; r < y.rows; r += gridDim.y) {
      const float value = to_float(y.row(item, r)[c]);
      y.row(item, r)[c] = from_float<T>(fmaf(factor, value - b, value));
    }
}

/// 32 columns a block, every 16th row a warp. Grid: columns.
template <typename T>
__global__ void __launch_bounds__(kSumWarps* kWarp)
    scale_bwd_kernel(Rows<T> dy, float* d_magnitude, Rows<const T> y, const T* bias,
                     const float* gain, const float* magnitude, const float* multiplier) {
  __shared__ float partial[kSumWarps][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  float sum = 0;
  if (c < dy.columns) {
    const float factor = 1.0f + *multiplier * (gain[c] - 1.0f);
    const float b = bias ? to_float(bias[c]) : 0.0f;
    for (int64_t i = warp; i < dy.batches * dy.rows; i += kSumWarps) {
      const int64_t item = i / dy.rows, r = i % dy.rows;
      const float slope = to_float(dy.row(item, r)[c]);
      if (y) sum = fmaf(slope, to_float(y.row(item, r)[c]) - b, sum);
      dy.row(item, r)[c] = from_float<T>(slope * factor);
    }
  }
  partial[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || c >= dy.columns || !d_magnitude || magnitude[c] == 0.0f) return;
  for (int w = 1; w < kSumWarps; ++w) sum += partial[w][lane];
  d_magnitude[c] += sum / magnitude[c];
}

}  // namespace

void CudaOps::dropout(const Tensor& x, const DropoutOptions& options) {
  checks::dropout(x, options);
  for_activations(x.dtype(), [&]<typename T>(T) {
    dropout_kernel<<<blocks_for((x.size() + 3) / 4, kThreads), kThreads, 0, stream()>>>(
        Rows<T>(x), options.draw.as<const int32_t>(), adapter_draw(options.layer),
        static_cast<uint32_t>(options.rate * 4294967296.0),
        static_cast<float>(1 / (1 - options.rate)));
    CUDA_CHECK_LAUNCH();
  });
}

void CudaOps::dora_gain(const Tensor& gain, const Tensor& scaled_b, const Tensor& magnitude,
                        const RowNorms& norms) {
  checks::dora_gain(gain, scaled_b, magnitude, norms);
  for_activations(norms.B.dtype(), [&]<typename T>(T) {
    gain_kernel<<<blocks_for(norms.B.dim(0), kThreads), kThreads, 0, stream()>>>(
        gain.as<float>(), Rows<T>(scaled_b), magnitude.as<const float>(),
        norms.square.as<const float>(), Rows<const T>(norms.cross), Rows<const T>(norms.second),
        Rows<const T>(norms.B), static_cast<float>(norms.scale));
    CUDA_CHECK_LAUNCH();
  });
}

void CudaOps::dora_scale(const Tensor& y, const Tensor& bias, const DoraScale& dora) {
  checks::dora_scale(y, bias, dora);
  for_activations(y.dtype(), [&]<typename T>(T) {
    const Rows<T> rows(y);
    const dim3 grid(blocks_for(rows.columns, kThreads),
                    static_cast<unsigned>(std::min<int64_t>(rows.rows, 65535)),
                    static_cast<unsigned>(std::min<int64_t>(rows.batches, 65535)));
    scale_kernel<<<grid, kThreads, 0, stream()>>>(rows, bias ? bias.as<const T>() : nullptr,
                                                  dora.gain.as<const float>(),
                                                  dora.multiplier.as<const float>());
    CUDA_CHECK_LAUNCH();
  });
}

void CudaOps::dora_scale_bwd(const Tensor& dy, const Tensor& d_magnitude, const Tensor& y,
                             const Tensor& bias, const DoraScale& dora) {
  checks::dora_scale_bwd(dy, d_magnitude, y, bias, dora);
  for_activations(dy.dtype(), [&]<typename T>(T) {
    scale_bwd_kernel<<<blocks_for(dy.dim(-1), kWarp), kSumWarps * kWarp, 0, stream()>>>(
        Rows<T>(dy), d_magnitude ? d_magnitude.as<float>() : nullptr, Rows<const T>(y),
        bias ? bias.as<const T>() : nullptr, dora.gain.as<const float>(),
        dora.magnitude.as<const float>(), dora.multiplier.as<const float>());
    CUDA_CHECK_LAUNCH();
  });
}

}  // namespace fluxlora::cuda
