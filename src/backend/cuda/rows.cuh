// SPDX-License-Identifier: Apache-2.0
// How kernels see tensors: typed rows with strides; and the choice of types and of 16-byte
// accesses.
#pragma once

#include <algorithm>
#include <string>
#include <type_traits>

#include "backend/cuda/check.h"
#include "backend/cuda/vec.cuh"
#include "base/error.h"
#include "tensor/tensor.h"

namespace fluxlora::cuda {

template <typename T>
constexpr DType dtype_of() {
  using Plain = std::remove_const_t<T>;
  if constexpr (std::is_same_v<Plain, bf16>) return DType::bf16;
  if constexpr (std::is_same_v<Plain, __half>) return DType::f16;
  if constexpr (std::is_same_v<Plain, int32_t>) return DType::i32;
  return DType::f32;
}

/// Calls f(float{}) or f(bf16{}) after the dtype of activations.
template <typename F>
void for_activations(DType dtype, F&& f) {
  if (dtype == DType::bf16) return f(bf16{});
  CHECK(dtype == DType::f32, "the GPU computes in bf16 and f32");
  f(float{});
}

/// (B, T, C) as batches x rows x columns; (R, C) is one batch of R rows, (C) one row. A view of
/// rank 4 must have uniform rows. An empty tensor gives empty rows.
template <typename T>
struct Rows {
  T* data = nullptr;
  int64_t batches = 0, rows = 0, columns = 0;
  int64_t batch_stride = 0, row_stride = 0;

  Rows() = default;
  explicit Rows(const Tensor& tensor) {
    if (!tensor) return;
    CHECK(tensor.dtype() == dtype_of<T>(), "element type of " + tensor.describe());
    const Tensor x = tensor.rank() == 4 ? tensor.flat_rows() : tensor;
    data = x.as<T>();
    columns = x.dim(-1);
    rows = x.rank() >= 2 ? x.dim(-2) : 1;
    batches = x.rank() == 3 ? x.dim(0) : 1;
    row_stride = x.rank() >= 2 ? x.stride(-2) : columns;
    batch_stride = x.rank() == 3 ? x.stride(0) : rows * row_stride;
  }

  /// m (B, C) beside (B, T, C): the same row for all tokens of an item. (C): the same for all.
  static Rows per_item(const Tensor& m, int64_t tokens) {
    if (!m) return {};
    Rows r(m);
    r.batches = m.rank() == 1 ? 1 : r.rows;
    r.batch_stride = m.rank() == 1 ? 0 : r.row_stride;
    r.rows = tokens;
    r.row_stride = 0;
    return r;
  }

  __host__ __device__ explicit operator bool() const { return data != nullptr; }
  __device__ __forceinline__ T* row(int64_t batch, int64_t i) const {
    return data + batch * batch_stride + i * row_stride;
  }
  /// Whether every run of `width` columns can be read in aligned packs.
  bool packs(int64_t width) const {
    if (!data) return true;
    const auto size = static_cast<int64_t>(sizeof(T));
    const int64_t align = std::min<int64_t>(16, size * width);
    return columns % width == 0 && reinterpret_cast<uintptr_t>(data) % align == 0 &&
           row_stride * size % align == 0 && batch_stride * size % align == 0;
  }
  /// Rows of an item without gaps become one row.
  bool items_are_flat() const { return !data || rows == 1 || row_stride == columns; }
  void merge_items() {
    columns *= rows;
    row_stride = columns;
    rows = 1;
  }
  bool all_is_flat() const { return !data || batches == 1 || batch_stride == columns * rows; }
  void merge_all() {
    columns *= batches;
    batch_stride = row_stride = columns;
    batches = 1;
  }
};

/// W of the packs in which all these rows can be read: `width` or 1.
template <typename... R>
bool all_pack(int64_t width, const R&... rows) {
  return (rows.packs(width) && ...);
}

inline unsigned blocks_for(int64_t count, int64_t each) {
  const int64_t blocks = (count + each - 1) / each;
  CHECK(blocks < (int64_t{1} << 31), "a grid of " + std::to_string(blocks) + " blocks");
  return static_cast<unsigned>(blocks);
}

/// The least multiple of the warp's size that is not below n.
inline int whole_warps(int64_t n) {
  return static_cast<int>((n + 31) / 32 * 32);
}

}  // namespace fluxlora::cuda
