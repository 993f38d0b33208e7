// SPDX-License-Identifier: Apache-2.0
// A block of threads that holds one row in registers: what norms are made of.
#pragma once

#include "backend/cuda/rows.cuh"

namespace fluxlora::cuda {

/// A thread holds P packs of W neighbouring columns; packs of one number step through memory with
/// the whole block, so that every access of a warp is one piece.
template <int W, int P>
struct RowTile {
  static constexpr int kPack = W, kPacks = P, kCount = W * P;

  /// The first column of pack p of this thread.
  static __device__ __forceinline__ int64_t column(int p) {
    return (static_cast<int64_t>(p) * blockDim.x + threadIdx.x) * W;
  }

  /// x[p * W + i] = row[column(p) + i], 0 beyond the end.
  template <typename T>
  static __device__ __forceinline__ void load(float (&x)[kCount], const T* row, int64_t columns) {
#pragma unroll
    for (int p = 0; p < P; ++p) {
      float pack[W] = {};
      if (column(p) < columns) cuda::load<W>(pack, row + column(p));
#pragma unroll
      for (int i = 0; i < W; ++i) x[p * W + i] = pack[i];
    }
  }

  template <typename T>
  static __device__ __forceinline__ void store(T* row, const float (&x)[kCount], int64_t columns) {
#pragma unroll
    for (int p = 0; p < P; ++p) {
      if (column(p) >= columns) continue;
      float pack[W];
#pragma unroll
      for (int i = 0; i < W; ++i) pack[i] = x[p * W + i];
      cuda::store<W>(row + column(p), pack);
    }
  }

  /// The same in two halves: a row that is asked for early and wanted late waits as it is stored,
  /// which takes fewer registers.
  template <typename T>
  struct Stored {
    Pack<T, W> pack[P] = {};

    __device__ __forceinline__ Stored(const T* row, int64_t columns) {
#pragma unroll
      for (int p = 0; p < P; ++p)
        if (row && column(p) < columns)
          pack[p] = *reinterpret_cast<const Pack<T, W>*>(row + column(p));
    }
    __device__ __forceinline__ float operator[](int j) const {
      return to_float(pack[j / W].v[j % W]);
    }
  };

  /// Whether number j of this thread lies inside the row.
  static __device__ __forceinline__ bool inside(int j, int64_t columns) {
    return column(j / W) < columns;
  }
};

/// Threads of a block at most: more would leave too few registers for a row.
inline constexpr int kMostThreads = 512;

/// Calls launch(RowTile<W, P>{}, threads) with a tile that fits rows of `columns`. The packed tile
/// holds P packs a thread; `packed` says whether all rows allow packs of 16 bytes.
template <typename T, int P, typename F>
void with_row_tile(int64_t columns, bool packed, F&& launch) {
  constexpr int kSingles = 16;
  if (packed && columns <= int64_t{kMostThreads} * P * kWidth<T>) {
    const int64_t packs = columns / kWidth<T>;
    return launch(RowTile<kWidth<T>, P>{}, whole_warps((packs + P - 1) / P));
  }
  CHECK(columns <= kMostThreads * kSingles, "rows of " + std::to_string(columns) + " numbers");
  launch(RowTile<1, kSingles>{}, whole_warps((columns + kSingles - 1) / kSingles));
}

}  // namespace fluxlora::cuda
