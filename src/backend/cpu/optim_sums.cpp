// SPDX-License-Identifier: Apache-2.0
// The updates that need sums over the parameters: Prodigy, Adafactor.
#include <cmath>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/simd.h"
#include "backend/cpu/update.h"
#include "ops/checks.h"

namespace fluxlora {
namespace {

/// Elements of one partial sum, whatever the thread count.
constexpr int64_t kChunk = 4096;

double sum_of_all(const double* values, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += values[i];
  return sum;
}

void store(const Tensor& x, int64_t i, double value) {
  for_dtype(x.dtype(), [&]<typename T>(T) { x.as<T>()[i] = static_cast<T>(value); });
}

}  // namespace

void CpuOps::prodigy_moments(const Tensor& sums, const Tensor& p, const ProdigyState& state,
                             const Tensor& g, const Tensor& norm, const Tensor& scalars,
                             const ProdigyOptions& options) {
  checks::update("prodigy_moments", {p, state.m, state.v, state.s, state.p0, g}, norm, scalars, 2);
  const double d = scalar(scalars, 0);
  const int64_t chunks = (p.size() + kChunk - 1) / kChunk;
  auto* const partial = scratch_.shared<double>(0, 2 * chunks);
  for_dtype(p.dtype(), [&]<typename T>(T) {
    const T factor = static_cast<T>(clip_factor(norm, options.max_norm));
    const T beta1 = static_cast<T>(options.beta1), beta2 = static_cast<T>(options.beta2);
    const T beta3 = static_cast<T>(options.beta3), weight = static_cast<T>(scalar(scalars, 1));
    const T rest1 = static_cast<T>(d * (1 - options.beta1));
    const T rest2 = static_cast<T>(d * d * (1 - options.beta2));
    T *const md = state.m.as<T>(), *const vd = state.v.as<T>(), *const sd = state.s.as<T>();
    const T *const pd = p.as<const T>(), *const start = state.p0.as<const T>();
    const T* const gd = g.as<const T>();
    parallel_for(chunks, 4, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) {
        const int64_t from = c * kChunk, count = std::min(kChunk, p.size() - from);
        partial[c] = sum_of<double>(count, [&](int64_t n) {
          const int64_t i = from + n;
          return double{gd[i] * factor} * (double{start[i]} - double{pd[i]});
        });
        partial[chunks + c] = sum_of<double>(count, [&](int64_t n) {
          const int64_t i = from + n;
          const T grad = gd[i] * factor;
          md[i] = beta1 * md[i] + rest1 * grad;
          vd[i] = beta2 * vd[i] + rest2 * grad * grad;
          sd[i] = beta3 * sd[i] + weight * grad;
          return double{std::abs(sd[i])};
        });
      }
    });
  });
  store(sums, 0, sum_of_all(partial, chunks));
  store(sums, 1, sum_of_all(partial + chunks, chunks));
}

void CpuOps::prodigy_step(const Tensor& p, const ProdigyState& state, const Tensor& scalars,
                          const ProdigyOptions& options) {
  checks::update("prodigy_step", {p, state.m, state.v}, scalars.slice(0, 0, 1), scalars, 2);
  const double lr = scalar(scalars, 0), d = scalar(scalars, 1);
  for_dtype(p.dtype(), [&]<typename T>(T) {
    const T decay = static_cast<T>(1 - lr * options.weight_decay), step = static_cast<T>(lr);
    const T eps = static_cast<T>(d * options.eps);
    T* const pd = p.as<T>();
    const T *const md = state.m.as<const T>(), *const vd = state.v.as<const T>();
    parallel_for(p.size(), kChunk, [&](int64_t first, int64_t last) {
#pragma omp simd
      for (int64_t i = first; i < last; ++i)
        pd[i] = pd[i] * decay - step * md[i] / (std::sqrt(vd[i]) + eps);
    });
  });
}

namespace {

/// A matrix with its factors.
template <typename T>
struct Factored {
  T* p;
  const T* g;
  T *row, *column;
  int64_t R, C;
  T clip;

  double mean_square(int64_t r, double eps) const {
    const T* const values = g + r * C;
    const double sum = sum_of<double>(C, [=, this](int64_t c) {
      const T grad = values[c] * clip;
      return double{grad} * double{grad};
    });
    return sum / static_cast<double>(C) + eps;
  }
  void update_columns(int64_t first, int64_t last, T beta, double eps) const {
    for (int64_t c = first; c < last; ++c) {
      double sum = 0;
      for (int64_t r = 0; r < R; ++r) {
        const T grad = g[r * C + c] * clip;
        sum += double{grad} * double{grad};
      }
      const T mean = static_cast<T>(sum / static_cast<double>(R) + eps);
      column[c] = beta * column[c] + (1 - beta) * mean;
    }
  }
  /// u of row r is g[c] times row_factor over sqrt(column[c]).
  double update_square(int64_t r, T row_factor) const {
    const T* const values = g + r * C;
    return sum_of<double>(C, [=, this](int64_t c) {
      const T u = values[c] * clip * (row_factor / std::sqrt(column[c]));
      return double{u} * double{u};
    });
  }
  void apply(int64_t r, T row_factor, T step, T decay) const {
    T* const to = p + r * C;
    const T* const values = g + r * C;
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) {
      const T u = values[c] * clip * (row_factor / std::sqrt(column[c]));
      to[c] = to[c] * decay - step * u;
    }
  }
};

}  // namespace

void CpuOps::adafactor_step(const Tensor& p, const Tensor& row, const Tensor& column,
                            const Tensor& g, const Tensor& norm, const Tensor& scalars,
                            const AdafactorOptions& options) {
  checks::adafactor_step(p, row, column, g, norm, scalars);
  const int64_t R = p.dim(0), C = p.dim(1);
  const auto rows = static_cast<double>(R), count = static_cast<double>(R * C);
  auto* const partial = scratch_.shared<double>(0, R);
  for_dtype(p.dtype(), [&]<typename T>(T) {
    const Factored<T> x{p.as<T>(),
                        g.as<const T>(),
                        row.as<T>(),
                        column.as<T>(),
                        R,
                        C,
                        static_cast<T>(clip_factor(norm, options.max_norm))};
    const T beta = static_cast<T>(scalar(scalars, 1));
    const auto each_row = [&](auto&& work) {
      parallel_for(R, row_grain(C), [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) work(r);
      });
    };
    const auto row_factor = [&](int64_t r, double mean) {
      return static_cast<T>(1 / std::sqrt(double{x.row[r]} / mean));
    };
    double lr = scalar(scalars, 0);
    if (options.scale_parameter) {
      each_row([&](int64_t r) {
        const T* const values = x.p + r * C;
        partial[r] = sum_of<double>(C, [=](int64_t c) { return double{values[c]} * values[c]; });
      });
      lr *= std::max(options.eps_scale, std::sqrt(sum_of_all(partial, R) / count));
    }
    each_row([&](int64_t r) {
      x.row[r] =
          beta * x.row[r] + (1 - beta) * static_cast<T>(x.mean_square(r, options.eps_square));
      partial[r] = double{x.row[r]};
    });
    const double mean = sum_of_all(partial, R) / rows;
    parallel_for(C, row_grain(R), [&](int64_t first, int64_t last) {
      x.update_columns(first, last, beta, options.eps_square);
    });
    each_row([&](int64_t r) { partial[r] = x.update_square(r, row_factor(r, mean)); });
    const double rms = std::sqrt(sum_of_all(partial, R) / count);
    const T step = static_cast<T>(lr / std::max(1.0, rms / options.clip_threshold));
    const T decay = static_cast<T>(1 - lr * options.weight_decay);
    each_row([&](int64_t r) { x.apply(r, row_factor(r, mean), step, decay); });
  });
}

}  // namespace fluxlora
