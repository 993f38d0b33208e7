// SPDX-License-Identifier: Apache-2.0
// The update of flat parameter buffers.
#include <cmath>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/simd.h"
#include "ops/checks.h"

namespace fluxlora {
namespace {

/// Elements of one partial sum, whatever the thread count.
constexpr int64_t kChunk = 4096;

double scalar(const Tensor& x, int64_t i) {
  return x.dtype() == DType::f64 ? x.as<const double>()[i] : double{x.as<const float>()[i]};
}

}  // namespace

void CpuOps::global_norm(const Tensor& norm, const Tensor& g) {
  checks::global_norm(norm, g);
  const int64_t chunks = (g.size() + kChunk - 1) / kChunk;
  auto* const partial = scratch_.shared<double>(0, chunks);
  for_dtype(g.dtype(), [&]<typename T>(T) {
    const T* const values = g.as<const T>();
    parallel_for(chunks, 4, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) {
        const T* const v = values + c * kChunk;
        partial[c] = sum_of<double>(std::min(kChunk, g.size() - c * kChunk),
                                    [v](int64_t i) { return double{v[i]} * double{v[i]}; });
      }
    });
  });
  double sum = 0;
  for (int64_t c = 0; c < chunks; ++c) sum += partial[c];
  for_dtype(norm.dtype(), [&]<typename T>(T) { *norm.as<T>() = static_cast<T>(std::sqrt(sum)); });
}

void CpuOps::adamw_step(const Tensor& p, const Tensor& m, const Tensor& v, const Tensor& g,
                        const Tensor& norm, const Tensor& scalars, const AdamWOptions& options) {
  checks::adamw_step(p, m, v, g, norm, scalars);
  const double lr = scalar(scalars, 0), correction1 = scalar(scalars, 1);
  const double length = scalar(norm, 0);
  const double clip =
      options.max_norm > 0 && length > options.max_norm ? options.max_norm / length : 1;
  for_dtype(p.dtype(), [&]<typename T>(T) {
    const T factor = static_cast<T>(clip);
    const T decay = static_cast<T>(1 - lr * options.weight_decay);
    const T beta2 = static_cast<T>(options.beta2), eps = static_cast<T>(options.eps);
    const T rest1 = static_cast<T>(1 - options.beta1), rest2 = static_cast<T>(1 - options.beta2);
    const T step = static_cast<T>(lr / correction1);
    const T root2 = static_cast<T>(std::sqrt(scalar(scalars, 2)));
    T* const pd = p.as<T>();
    T* const md = m.as<T>();
    T* const vd = v.as<T>();
    const T* const gd = g.as<const T>();
    parallel_for(p.size(), kChunk, [&](int64_t first, int64_t last) {
#pragma omp simd
      for (int64_t i = first; i < last; ++i) {
        const T grad = gd[i] * factor;
        md[i] += rest1 * (grad - md[i]);
        vd[i] = beta2 * vd[i] + rest2 * grad * grad;
        pd[i] = pd[i] * decay - step * md[i] / (std::sqrt(vd[i]) / root2 + eps);
      }
    });
  });
}

}  // namespace fluxlora
