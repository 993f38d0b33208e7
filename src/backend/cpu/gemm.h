// SPDX-License-Identifier: Apache-2.0
// Matrix products of the calling thread, row-major: the only place that knows the BLAS. Work is
// split over threads outside, by rows or columns, so the result depends on the thread count alone.
#pragma once

#include <cstdint>

namespace fluxlora {

/// A row-major matrix with a leading dimension, or its transpose.
template <typename T>
struct Matrix {
  const T* data;
  int64_t stride;           ///< between stored rows
  bool transposed = false;  ///< the matrix meant is the transpose of what is stored
};

template <typename T>
Matrix<T> plain(const T* data, int64_t stride) {
  return {data, stride, false};
}
template <typename T>
Matrix<T> transpose(const T* data, int64_t stride) {
  return {data, stride, true};
}

/// C (m, n) = alpha A (m, k) B (k, n) + beta C.
struct GemmSize {
  int64_t m, n, k;
};
void gemm(GemmSize size, float alpha, Matrix<float> a, Matrix<float> b, float beta, float* c,
          int64_t c_stride);
void gemm(GemmSize size, double alpha, Matrix<double> a, Matrix<double> b, double beta, double* c,
          int64_t c_stride);

/// Tells the BLAS that fluxlora brings the threads. Called once, when the device opens.
void use_one_blas_thread();

}  // namespace fluxlora
