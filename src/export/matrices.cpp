// SPDX-License-Identifier: Apache-2.0
#include "export/matrices.h"

#include <algorithm>

#include <cblas.h>

#include "base/error.h"
#include "base/parallel.h"

namespace fluxlora::exporting {

void multiply(const Tensor& c, const Tensor& a, const Tensor& b, float scale) {
  const int64_t m = c.dim(0), n = c.dim(1), k = a.dim(1);
  CHECK(a.dim(0) == m && b.dim(0) == k && b.dim(1) == n,
        "multiply: " + a.describe() + " by " + b.describe());
  openblas_set_num_threads(1);  // the threads are parallel_for's
  constexpr int64_t kRows = 256;
  parallel_for(m, kRows, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i += kRows) {
      const int64_t rows = std::min(kRows, last - i);
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(rows),
                  static_cast<int>(n), static_cast<int>(k), scale, a.as<float>() + i * k,
                  static_cast<int>(k), b.as<float>(), static_cast<int>(n), 0, c.as<float>() + i * n,
                  static_cast<int>(n));
    }
  });
}

}  // namespace fluxlora::exporting
