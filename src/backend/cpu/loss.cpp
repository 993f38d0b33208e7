// SPDX-License-Identifier: Apache-2.0
// Flow matching: the noisy picture and the loss with its gradient.
#include <cmath>

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

namespace {

struct Squares {
  template <typename T>
  double cost(T e) const {
    return double{e} * double{e};
  }
  template <typename T>
  T slope(T e) const {
    return 2 * e;
  }
};

struct Huber {
  double c, k;

  template <typename T>
  double cost(T e) const {
    const double square = double{e} * double{e};  // the difference of two near numbers avoided
    return k * square / (std::sqrt(square + c * c) + c);
  }
  template <typename T>
  T slope(T e) const {
    return static_cast<T>(k * double{e} / std::sqrt(double{e} * double{e} + c * c));
  }
};

/// One token: Σ share(i) penalty(pred - (noise - x0)), and d_pred where it is asked for.
template <typename T, typename Penalised>
struct LossRow {
  const T *pred, *x0, *noise;
  T* d_pred;
  T factor;
  int64_t columns;
  Penalised penalty;

  template <typename Share>
  double run(Share share) const {
    const T *const y = pred, *const x = x0, *const e = noise;
    const Penalised cost = penalty;
    const double sum = sum_of<double>(columns, [=](int64_t i) {
      const T difference = y[i] - (e[i] - x[i]);
      return double{share(i)} * cost.cost(difference);
    });
    T* const d = d_pred;
    for (int64_t i = 0; d && i < columns; ++i)
      d[i] = factor * share(i) * cost.slope(y[i] - (e[i] - x[i]));
    return sum;
  }
};

/// Calls f(the penalty as a type).
template <typename F>
void for_penalty(const Penalty& penalty, F&& f) {
  if (penalty.c > 0) return f(Huber{penalty.c, penalty.k});
  f(Squares{});
}

}  // namespace

void CpuOps::flow_loss(const Tensor& loss, const Tensor& d_pred, const Tensor& pred,
                       const Tensor& x0, const Tensor& noise, const Tensor& weight,
                       const Tensor& mask, const Penalty& penalty) {
  checks::flow_loss(loss, d_pred, pred, x0, noise, weight, mask);
  const auto run = [&]<typename T, typename Penalised>(T, const Penalised& penalised) {
    const Rows<T> p(pred), clean(x0), pure(noise), grad(d_pred), counts(mask);
    auto* const partial = scratch_.shared<double>(0, p.total());
    const double count = static_cast<double>(p.rows * p.columns);
    parallel_for(p.total(), row_grain(p.columns), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        LossRow<T, Penalised> row{p.row(r), clean.row(r), pure.row(r), nullptr,
                                  0,        p.columns,    penalised};
        if (grad) {
          row.d_pred = grad.row(r);
          row.factor = static_cast<T>(double{weight.as<const T>()[r / p.rows]} / count);
        }
        if (counts) {
          const T* const share = counts.row(r);
          partial[r] = row.run([=, P = counts.columns](int64_t i) { return share[i % P]; });
        } else {
          partial[r] = row.run([](int64_t) { return T{1}; });
        }
      }
    });
    for (int64_t b = 0; b < p.batches; ++b) {
      double sum = 0;
      for (int64_t r = 0; r < p.rows; ++r) sum += partial[b * p.rows + r];
      loss.as<T>()[b] = static_cast<T>(sum / count);
    }
  };
  for_dtype(pred.dtype(), [&](auto t) { for_penalty(penalty, [&](const auto& p) { run(t, p); }); });
}

}  // namespace fluxlora
