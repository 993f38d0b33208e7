// SPDX-License-Identifier: Apache-2.0
// One kernel for all operations that go element by element over rows views.
#pragma once

#include <array>

#include "backend/cuda/rows.cuh"

namespace fluxlora::cuda {

/// How far rows may be joined: not at all where an input repeats for every token, within an item
/// where the function asks for the item's index, else everything.
enum class Join { none, items, all };

template <typename T, int N>
struct Inputs {
  Rows<const T> rows[N];
};

/// y = f(inputs, item). Grid: x walks columns, y rows, z items.
template <int W, int N, typename TO, typename TI, typename F>
__global__ void elementwise_kernel(Rows<TO> y, Inputs<TI, N> in, F f) {
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * W;
  if (column >= y.columns) return;
  for (int64_t b = blockIdx.z; b < y.batches; b += gridDim.z) {
    for (int64_t r = blockIdx.y; r < y.rows; r += gridDim.y) {
      float values[N][W], result[W];
#pragma unroll
      for (int n = 0; n < N; ++n) load<W>(values[n], in.rows[n].row(b, r) + column);
#pragma unroll
      for (int i = 0; i < W; ++i) {
        float one[N];
#pragma unroll
        for (int n = 0; n < N; ++n) one[n] = values[n][i];
        result[i] = f(one, b);
      }
      store<W>(y.row(b, r) + column, result);
    }
  }
}

/// F: `__device__ float operator()(const float (&inputs)[N], int64_t item) const`.
template <typename TO, typename TI, int N, typename F>
void elementwise(cudaStream_t stream, Rows<TO> y, Inputs<TI, N> in, Join join, const F& f) {
  if (y.batches == 0 || y.rows == 0 || y.columns == 0) return;
  bool items = y.items_are_flat(), all = y.all_is_flat();
  for (const Rows<const TI>& x : in.rows) {
    items = items && x.items_are_flat();
    all = all && x.all_is_flat();
  }
  if (join != Join::none && items) {
    y.merge_items();
    for (Rows<const TI>& x : in.rows) x.merge_items();
    if (join == Join::all && all) {
      y.merge_all();
      for (Rows<const TI>& x : in.rows) x.merge_all();
    }
  }
  constexpr int kPack = kWidth<TO>;
  bool packed = y.packs(kPack);
  for (const Rows<const TI>& x : in.rows) packed = packed && x.packs(kPack);
  const int64_t packs = packed ? y.columns / kPack : y.columns;
  // Blocks of equal size, so that no row ends in a nearly empty one.
  const int64_t across = (packs + 255) / 256;
  const int threads = whole_warps((packs + across - 1) / across);
  const dim3 grid(blocks_for(packs, threads),
                  static_cast<unsigned>(std::min<int64_t>(y.rows, 65535)),
                  static_cast<unsigned>(std::min<int64_t>(y.batches, 65535)));
  if (packed)
    elementwise_kernel<kPack, N><<<grid, threads, 0, stream>>>(y, in, f);
  else
    elementwise_kernel<1, N><<<grid, threads, 0, stream>>>(y, in, f);
  CUDA_CHECK_LAUNCH();
}

/// The same over tensors of one dtype and of equal shapes. Views of rank 4 whose rows have no
/// single stride are taken item by item.
template <int N, typename F>
void elementwise(cudaStream_t stream, const Tensor& y, const std::array<Tensor, N>& in,
                 const F& f) {
  bool split = y.rank() == 4 && !y.rows_are_uniform();
  for (const Tensor& x : in) split = split || (x.rank() == 4 && !x.rows_are_uniform());
  if (split) {
    for (int64_t i = 0; i < y.dim(0); ++i) {
      std::array<Tensor, N> items;
      for (size_t n = 0; n < items.size(); ++n) items[n] = in[n].item(i);
      elementwise<N>(stream, y.item(i), items, f);
    }
    return;
  }
  for_activations(y.dtype(), [&]<typename T>(T) {
    Inputs<T, N> rows;
    for (size_t n = 0; n < in.size(); ++n) rows.rows[n] = Rows<const T>(in[n]);
    elementwise(stream, Rows<T>(y), rows, Join::all, f);
  });
}

}  // namespace fluxlora::cuda
