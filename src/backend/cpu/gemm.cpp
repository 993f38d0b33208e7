// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/gemm.h"

#include <cblas.h>

namespace fluxlora {
namespace {

CBLAS_TRANSPOSE flag(bool transposed) {
  return transposed ? CblasTrans : CblasNoTrans;
}

}  // namespace

void gemm(GemmSize s, float alpha, Matrix<float> a, Matrix<float> b, float beta, float* c,
          int64_t c_stride) {
  if (s.m <= 0 || s.n <= 0) return;
  cblas_sgemm(CblasRowMajor, flag(a.transposed), flag(b.transposed), static_cast<int>(s.m),
              static_cast<int>(s.n), static_cast<int>(s.k), alpha, a.data,
              static_cast<int>(a.stride), b.data, static_cast<int>(b.stride), beta, c,
              static_cast<int>(c_stride));
}

void gemm(GemmSize s, double alpha, Matrix<double> a, Matrix<double> b, double beta, double* c,
          int64_t c_stride) {
  if (s.m <= 0 || s.n <= 0) return;
  cblas_dgemm(CblasRowMajor, flag(a.transposed), flag(b.transposed), static_cast<int>(s.m),
              static_cast<int>(s.n), static_cast<int>(s.k), alpha, a.data,
              static_cast<int>(a.stride), b.data, static_cast<int>(b.stride), beta, c,
              static_cast<int>(c_stride));
}

void use_one_blas_thread() {
  openblas_set_num_threads(1);
}

}  // namespace fluxlora
