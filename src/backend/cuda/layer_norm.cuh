// SPDX-License-Identifier: Apache-2.0
// LayerNorm of rows that a block holds in registers: with a modulation or weights, with the gated
// residual before it, and the backwards of these. norm_modulate.cu and norms.cu launch them.
#pragma once

#include "backend/cuda/row_kernel.cuh"
#include "backend/cuda/token_sums.cuh"

namespace fluxlora::cuda {

/// Forward: x_out = x + gate y (if there is a y; stored if x_out is not empty), then
/// h = LN(x_out) factor + shift, where factor is scale or 1 + scale.
template <typename T>
struct NormForward {
  Rows<T> h, x_out;
  Rows<float> stats;
  Rows<const T> x, y, gate;
  Rows<const T> scale, shift;
  float eps, plus;  // plus: 0 or 1
};

/// Grid: x tokens, y items. The mean is taken off before squares are summed, so that a large mean
/// costs no digits.
template <typename Tile, typename T>
__global__ void __launch_bounds__(kMostThreads) norm_forward_kernel(NormForward<T> a) {
  const int64_t n = a.h.columns, t = blockIdx.x, b = blockIdx.y;
  float v[Tile::kCount];
  Tile::load(v, a.x.row(b, t), n);
  if (a.y) {
    float y[Tile::kCount], gate[Tile::kCount];
    Tile::load(y, a.y.row(b, t), n);
    Tile::load(gate, a.gate.row(b, t), n);
    // As stored, since the backward normalises what was stored.
#pragma unroll
    for (int j = 0; j < Tile::kCount; ++j) v[j] = rounded<T>(fmaf(gate[j], y[j], v[j]));
  }
  if (a.x_out) Tile::store(a.x_out.row(b, t), v, n);
  float sum[1] = {};
#pragma unroll
  for (int j = 0; j < Tile::kCount; ++j) sum[0] += v[j];
  block_sum(sum);
  const float mean = sum[0] / static_cast<float>(n);
  float squares[1] = {};
#pragma unroll
  for (int j = 0; j < Tile::kCount; ++j) {
    v[j] -= mean;
    if (Tile::inside(j, n)) squares[0] = fmaf(v[j], v[j], squares[0]);
  }
  block_sum(squares);
  const float inverse = 1.0f / sqrtf(squares[0] / static_cast<float>(n) + a.eps);
  if (a.stats && threadIdx.x == 0) {
    a.stats.row(b, t)[0] = mean;
    a.stats.row(b, t)[1] = inverse;
  }
#pragma unroll
  for (int p = 0; p < Tile::kPacks; ++p) {
    const int64_t column = Tile::column(p);
    if (column >= n) continue;
    float scale[Tile::kPack], shift[Tile::kPack];
    load<Tile::kPack>(scale, a.scale.row(b, t) + column);
    load<Tile::kPack>(shift, a.shift.row(b, t) + column);
#pragma unroll
    for (int i = 0; i < Tile::kPack; ++i)
      shift[i] = fmaf(v[p * Tile::kPack + i] * inverse, a.plus + scale[i], shift[i]);
    store<Tile::kPack>(a.h.row(b, t) + column, shift);
  }
}

/// Backward: dx (+)= the gradient through the norm; then dy = gate dx (if dy is not empty). Sums
/// over tokens go to `sums` (B, chunks, 3, D): Σ dh, Σ dh LN(x), Σ dx y.
template <typename T>
struct NormBackward {
  Rows<T> dx, dy;
  Rows<const T> dh, x, scale, y, gate;
  Rows<const float> stats;
  float* sums = nullptr;
  float plus = 1;
  bool accumulate = false;
  bool shift_sum = false, scale_sum = false, gate_sum = false;
};

/// One token. `sums` collects this thread's columns of the three sums.
template <bool kSums, typename Tile, typename T>
__device__ __forceinline__ void norm_backward_row(const NormBackward<T>& a, int64_t b, int64_t t,
                                                  float (&sums)[3][kSums ? Tile::kCount : 1]) {
  const int64_t n = a.dh.columns;
  float g[Tile::kCount], v[Tile::kCount];
  Tile::load(g, a.dh.row(b, t), n);
  Tile::load(v, a.x.row(b, t), n);
  const typename Tile::template Stored<T> old(a.accumulate ? a.dx.row(b, t) : nullptr, n);
  const float mean = a.stats.row(b, t)[0], inverse = a.stats.row(b, t)[1];
#pragma unroll
  for (int j = 0; j < Tile::kCount; ++j) v[j] = (v[j] - mean) * inverse;
  if constexpr (kSums) {
#pragma unroll
    for (int j = 0; j < Tile::kCount; ++j) {
      sums[0][j] += g[j];
      sums[1][j] = fmaf(g[j], v[j], sums[1][j]);
    }
  }
  if (!a.dx) return;
  // With g = dh factor: dx = (g - mean(g) - LN(x) mean(g LN(x))) / std.
  float scale[Tile::kCount], means[2] = {};
  Tile::load(scale, a.scale.row(b, t), n);
#pragma unroll
  for (int j = 0; j < Tile::kCount; ++j) {
    g[j] *= a.plus + scale[j];  // 0 outside of the row, since g is
    means[0] += g[j];
    means[1] = fmaf(g[j], v[j], means[1]);
  }
  block_sum(means);
  means[0] /= static_cast<float>(n);
  means[1] /= static_cast<float>(n);
#pragma unroll
  for (int j = 0; j < Tile::kCount; ++j) g[j] = (g[j] - means[0] - v[j] * means[1]) * inverse;
#pragma unroll
  for (int j = 0; j < Tile::kCount; ++j) g[j] += old[j];
  Tile::store(a.dx.row(b, t), g, n);
  if (!a.dy) return;
#pragma unroll
  for (int j = 0; j < Tile::kCount; ++j) g[j] = rounded<T>(g[j]);  // dy belongs to the stored dx
  if constexpr (kSums) {
    if (a.gate_sum) {
      Tile::load(v, a.y.row(b, t), n);
#pragma unroll
      for (int j = 0; j < Tile::kCount; ++j) sums[2][j] = fmaf(g[j], v[j], sums[2][j]);
    }
  }
  Tile::load(v, a.gate.row(b, t), n);
#pragma unroll
  for (int j = 0; j < Tile::kCount; ++j) v[j] *= g[j];
  Tile::store(a.dy.row(b, t), v, n);
}

/// Writes a thread's columns of one sum of a chunk.
template <typename Tile>
__device__ __forceinline__ void store_sum(float* to, const float (&sum)[Tile::kCount], int64_t n) {
#pragma unroll
  for (int j = 0; j < Tile::kCount; ++j)
    if (Tile::inside(j, n)) to[Tile::column(j / Tile::kPack) + j % Tile::kPack] = sum[j];
}

/// Grid: x chunks of kSumTokens tokens, or single tokens without sums; y items.
template <bool kSums, typename Tile, typename T>
__global__ void __launch_bounds__(kMostThreads) norm_backward_kernel(NormBackward<T> a) {
  constexpr int64_t kTokens = kSums ? kSumTokens : 1;
  const int64_t b = blockIdx.y, first = blockIdx.x * kTokens;
  const int64_t last = first + kTokens < a.dh.rows ? first + kTokens : a.dh.rows;
  float sums[3][kSums ? Tile::kCount : 1] = {};
  for (int64_t t = first; t < last; ++t) norm_backward_row<kSums, Tile, T>(a, b, t, sums);
  if constexpr (kSums) {
    const int64_t n = a.dh.columns;
    float* const to = a.sums + (b * gridDim.x + blockIdx.x) * kTokenSums * n;
    if (a.shift_sum) store_sum<Tile>(to, sums[0], n);
    if (a.scale_sum) store_sum<Tile>(to + n, sums[1], n);
    if (a.gate_sum) store_sum<Tile>(to + 2 * n, sums[2], n);
  }
}

template <typename T>
void launch_norm_forward(cudaStream_t stream, const NormForward<T>& a) {
  if (a.h.batches == 0 || a.h.rows == 0) return;
  const int64_t width = kWidth<T>;
  const bool packed = all_pack(width, a.h, a.x_out, a.x, a.y, a.gate, a.scale, a.shift);
  with_row_tile<T, 4>(a.h.columns, packed, [&]<typename Tile>(Tile, int threads) {
    const dim3 grid(blocks_for(a.h.rows, 1), static_cast<unsigned>(a.h.batches));
    norm_forward_kernel<Tile><<<grid, threads, 0, stream>>>(a);
    CUDA_CHECK_LAUNCH();
  });
}

template <typename T>
void launch_norm_backward(cudaStream_t stream, const NormBackward<T>& a) {
  if (a.dh.batches == 0 || a.dh.rows == 0) return;
  const int64_t width = kWidth<T>;
  const bool packed = all_pack(width, a.dx, a.dy, a.dh, a.x, a.scale, a.y, a.gate);
  with_row_tile<T, 2>(a.dh.columns, packed, [&]<typename Tile>(Tile, int threads) {
    const auto items = static_cast<unsigned>(a.dh.batches);
    if (a.sums)
      norm_backward_kernel<true, Tile>
          <<<dim3(blocks_for(a.dh.rows, kSumTokens), items), threads, 0, stream>>>(a);
    else
      norm_backward_kernel<false, Tile>
          <<<dim3(blocks_for(a.dh.rows, 1), items), threads, 0, stream>>>(a);
    CUDA_CHECK_LAUNCH();
  });
}

}  // namespace fluxlora::cuda
