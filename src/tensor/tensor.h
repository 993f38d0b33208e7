// SPDX-License-Identifier: Apache-2.0
// Tensor: a non-owning view of numbers in a device's memory. Dimensions: docs/notation.md.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "tensor/dtype.h"

namespace fluxlora {

/// A view of up to four dimensions. The last is always contiguous; the others may be strided, so
/// that the text rows of a joint (B, S, D) tensor, or the q columns of (B, S, 3D), are views and
/// not copies. Copying a Tensor copies the view. An empty view means "not given" or "not needed".
class Tensor {
 public:
  static constexpr int kMaxRank = 4;

  Tensor() = default;

  /// A contiguous view of `data` with these sizes.
  Tensor(DType dtype, std::initializer_list<int64_t> shape, void* data);
  Tensor(DType dtype, const int64_t* shape, int rank, void* data);

  explicit operator bool() const { return data_ != nullptr; }
  DType dtype() const { return dtype_; }
  int rank() const { return rank_; }
  int64_t dim(int i) const { return shape_[static_cast<size_t>(i < 0 ? i + rank_ : i)]; }
  /// Elements between neighbours along dimension i.
  int64_t stride(int i) const { return stride_[static_cast<size_t>(i < 0 ? i + rank_ : i)]; }
  /// Number of elements.
  int64_t size() const;
  /// Bytes of the elements themselves, without gaps.
  int64_t bytes() const { return size() * dtype_size(dtype_); }
  bool contiguous() const;
  bool same_shape(const Tensor& other) const;

  void* data() const { return data_; }
  /// Typed pointer to the first element; the type must fit dtype().
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

  /// Elements [first, first + count) of dimension `axis`.
  Tensor slice(int axis, int64_t first, int64_t count) const;
  /// Dimension 1 of (B, T, ...): the tokens of one stream.
  Tensor tokens(int64_t first, int64_t count) const { return slice(1, first, count); }
  /// The last dimension: columns of a fused row.
  Tensor columns(int64_t first, int64_t count) const { return slice(rank_ - 1, first, count); }
  /// Item i of dimension 0, with one dimension less.
  Tensor item(int64_t i) const;
  /// The same elements under other sizes. Contiguous views only.
  Tensor reshaped(std::initializer_list<int64_t> shape) const;
  /// (B, T, C) or (B, C) as (rows, C) where rows can be walked with one stride; the view must allow
  /// it.
  Tensor flat_rows() const;
  /// Whether flat_rows() can be taken.
  bool rows_are_uniform() const;

  /// "f32 (4, 128, 160)", for messages.
  std::string describe() const;

 private:
  DType dtype_ = DType::f32;
  int rank_ = 0;
  std::array<int64_t, kMaxRank> shape_{}, stride_{};
  void* data_ = nullptr;
};

}  // namespace fluxlora
