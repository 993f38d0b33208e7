// SPDX-License-Identifier: Apache-2.0
// How the CPU kernels see tensors: typed rows with strides, and the choice of float or double.
#pragma once

#include <algorithm>

#include "base/error.h"
#include "base/parallel.h"
#include "tensor/tensor.h"

namespace fluxlora {

/// Calls f(float{}) or f(double{}) after the dtype.
template <typename F>
void for_dtype(DType dtype, F&& f) {
  if (dtype == DType::f32) return f(float{});
  CHECK(dtype == DType::f64, "the CPU computes in f32 and f64");
  f(double{});
}

/// (B, T, C), (B, C) or (C) as batches x rows x columns; contiguous rows of a rank 4 picture too.
template <typename T>
struct Rows {
  T* data = nullptr;
  int64_t batches = 0, rows = 0, columns = 0, batch_stride = 0, row_stride = 0;
  bool uniform = true;  ///< row r of all lies at r * row_stride

  Rows() = default;
  explicit Rows(const Tensor& x) {
    if (!x) return;
    if (x.rank() == 4) {
      *this = Rows(x.flat_rows());
      return;
    }
    data = x.as<T>();
    columns = x.dim(-1);
    rows = x.rank() >= 2 ? x.dim(-2) : 1;
    batches = x.rank() == 3 ? x.dim(0) : 1;
    row_stride = x.rank() >= 2 ? x.stride(-2) : columns;
    batch_stride = x.rank() == 3 ? x.stride(0) : 0;
    uniform = x.rows_are_uniform();
  }

  explicit operator bool() const { return data != nullptr; }
  int64_t total() const { return batches * rows; }
  T* row(int64_t batch, int64_t i) const { return data + batch * batch_stride + i * row_stride; }
  T* row(int64_t r) const {
    return uniform ? data + r * row_stride : data + r / rows * batch_stride + r % rows * row_stride;
  }
};

/// Rows that make a piece of work worth a thread's while.
inline int64_t row_grain(int64_t columns) {
  return std::max<int64_t>(1, 8192 / std::max<int64_t>(1, columns));
}

}  // namespace fluxlora
