// SPDX-License-Identifier: Apache-2.0
// Flow matching: the noisy picture and the loss with its gradient.
#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/simd.h"
#include "ops/checks.h"

namespace fluxlora {

void CpuOps::flow_interpolate(const Tensor& x_t, const Tensor& x0, const Tensor& noise,
                              const Tensor& t) {
  checks::flow_interpolate(x_t, x0, noise, t);
  for_dtype(x_t.dtype(), [&]<typename T>(T) {
    const Rows<T> out(x_t), clean(x0), pure(noise);
    for (int64_t b = 0; b < out.batches; ++b) {
      const T time = t.as<const T>()[b];
      for (int64_t r = 0; r < out.rows; ++r) {
        T* const y = out.row(b, r);
        const T *const x = clean.row(b, r), *const e = pure.row(b, r);
        for (int64_t i = 0; i < out.columns; ++i) y[i] = (1 - time) * x[i] + time * e[i];
      }
    }
  });
}

void CpuOps::flow_loss(const Tensor& loss, const Tensor& d_pred, const Tensor& pred,
                       const Tensor& x0, const Tensor& noise, const Tensor& weight) {
  checks::flow_loss(loss, d_pred, pred, x0, noise, weight);
  for_dtype(pred.dtype(), [&]<typename T>(T) {
    const Rows<T> p(pred), clean(x0), pure(noise), grad(d_pred);
    auto* const partial = scratch_.shared<double>(0, p.total());
    const double count = static_cast<double>(p.rows * p.columns);
    parallel_for(p.total(), row_grain(p.columns), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const T *const y = p.row(r), *const x = clean.row(r), *const e = pure.row(r);
        partial[r] = sum_of<double>(p.columns, [=](int64_t i) {
          const T difference = y[i] - (e[i] - x[i]);
          return double{difference} * double{difference};
        });
        if (!grad) continue;
        T* const d = grad.row(r);
        const T factor = static_cast<T>(2 * double{weight.as<const T>()[r / p.rows]} / count);
        for (int64_t i = 0; i < p.columns; ++i) d[i] = factor * (y[i] - (e[i] - x[i]));
      }
    });
    for (int64_t b = 0; b < p.batches; ++b) {
      double sum = 0;
      for (int64_t r = 0; r < p.rows; ++r) sum += partial[b * p.rows + r];
      loss.as<T>()[b] = static_cast<T>(sum / count);
    }
  });
}

}  // namespace fluxlora
