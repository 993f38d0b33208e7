// SPDX-License-Identifier: Apache-2.0
// LayerNorm and RMSNorm with weights (text encoders), GroupNorm (VAE).
#include <cmath>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/simd.h"
#include "ops/checks.h"

namespace fluxlora {

void CpuOps::layer_norm(const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight,
                        const Tensor& bias, double eps) {
  checks::layer_norm(y, stats, x, weight, bias);
  for_dtype(y.dtype(), [&]<typename T>(T) {
    const Rows<T> out(y), in(x), saved(stats);
    const T *const w = weight.as<const T>(), *const b = bias.as<const T>();
    const int64_t n = out.columns;
    parallel_for(out.total(), row_grain(n), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        T* const to = out.row(r);
        const T* const v = in.row(r);
        const T mean = sum_of<T>(n, [v](int64_t i) { return v[i]; }) / static_cast<T>(n);
        const T variance = sum_of<T>(n, [=](int64_t i) { return (v[i] - mean) * (v[i] - mean); }) /
                           static_cast<T>(n);
        const T inverse = T(1) / std::sqrt(variance + static_cast<T>(eps));
        if (saved) {
          saved.row(r)[0] = mean;
          saved.row(r)[1] = inverse;
        }
        for (int64_t i = 0; i < n; ++i) to[i] = multiply_add((v[i] - mean) * inverse, w[i], b[i]);
      }
    });
  });
}

void CpuOps::layer_norm_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x,
                            const Tensor& stats, const Tensor& weight, Grad mode) {
  if (mode == Grad::ignore) return;
  checks::layer_norm_bwd(dx, dy, x, stats, weight);
  for_dtype(dx.dtype(), [&]<typename T>(T) {
    const Rows<T> out(dx), g(dy), in(x), saved(stats);
    const T* const w = weight.as<const T>();
    const int64_t n = out.columns;
    const bool add = mode == Grad::accumulate;
    parallel_for(out.total(), row_grain(n), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        T* const to = out.row(r);
        const T *const d = g.row(r), *const v = in.row(r);
        const T mean = saved.row(r)[0], inverse = saved.row(r)[1];
        const T sum = sum_of<T>(n, [=](int64_t i) { return d[i] * w[i]; });
        const T dot = sum_of<T>(n, [=](int64_t i) { return d[i] * w[i] * (v[i] - mean); });
        const T mean_g = sum / static_cast<T>(n);
        const T slope = dot * inverse * inverse / static_cast<T>(n);
        for (int64_t i = 0; i < n; ++i) {
          const T value = (d[i] * w[i] - mean_g - (v[i] - mean) * slope) * inverse;
          to[i] = add ? to[i] + value : value;
        }
      }
    });
  });
}

void CpuOps::rms_norm(const Tensor& y, const Tensor& x, const Tensor& weight, double eps) {
  checks::rms_norm(y, x, weight);
  for_dtype(y.dtype(), [&]<typename T>(T) {
    const Rows<T> out(y), in(x);
    const T* const w = weight.as<const T>();
    const int64_t n = out.columns;
    parallel_for(out.total(), row_grain(n), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        T* const to = out.row(r);
        const T* const v = in.row(r);
        const T square = sum_of<T>(n, [v](int64_t i) { return v[i] * v[i]; }) / static_cast<T>(n);
        const T inverse = T(1) / std::sqrt(square + static_cast<T>(eps));
        for (int64_t i = 0; i < n; ++i) to[i] = v[i] * inverse * w[i];
      }
    });
  });
}

namespace {

/// GroupNorm in three sweeps: sums, squared deviations from the group's mean, the result. Sweeps
/// cut the positions into chunks of fixed length, whose sums are combined in order in double.
template <typename T>
struct GroupNorm {
  static constexpr int64_t kChunk = 64;  // positions

  Scratch& scratch;
  Rows<T> out, in;
  const T *weight, *bias;
  int64_t groups;
  double eps;
  bool silu;

  int64_t channels() const { return in.columns; }
  int64_t chunks() const { return (in.rows + kChunk - 1) / kChunk; }

  /// Calls f(batch, chunk, first, last) for all chunks of positions.
  template <typename F>
  void for_chunks(F&& f) const {
    parallel_for(in.batches * chunks(), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t c = i % chunks();
        f(i / chunks(), c, c * kChunk, std::min(in.rows, (c + 1) * kChunk));
      }
    });
  }

  /// group (B, groups) = the mean over each group of term(x, value of `center` for the channel).
  void group_means(double* group, const T* center, bool squared) const {
    T* const partial = scratch.shared<T>(0, in.batches * chunks() * channels());
    for_chunks([&](int64_t b, int64_t chunk, int64_t first, int64_t last) {
      T* const sum = partial + (b * chunks() + chunk) * channels();
      std::fill_n(sum, channels(), T(0));
      for (int64_t p = first; p < last; ++p) {
        const T* const v = in.row(b, p);
        if (!squared) {
          for (int64_t i = 0; i < channels(); ++i) sum[i] += v[i];
          continue;
        }
        const T* const mean = center + b * channels();
        for (int64_t i = 0; i < channels(); ++i) sum[i] += (v[i] - mean[i]) * (v[i] - mean[i]);
      }
    });
    const int64_t width = channels() / groups;
    std::fill_n(group, in.batches * groups, 0.0);
    for (int64_t b = 0; b < in.batches; ++b)
      for (int64_t c = 0; c < chunks(); ++c)
        for (int64_t i = 0; i < channels(); ++i)
          group[b * groups + i / width] += partial[(b * chunks() + c) * channels() + i];
    for (int64_t i = 0; i < in.batches * groups; ++i)
      group[i] /= static_cast<double>(in.rows * width);
  }

  void run() const {
    const int64_t width = channels() / groups;
    auto* const mean = scratch.shared<double>(1, in.batches * groups);
    auto* const variance = scratch.shared<double>(2, in.batches * groups);
    T* const center = scratch.shared<T>(3, in.batches * channels());
    T* const factor = scratch.shared<T>(4, in.batches * channels());
    group_means(mean, nullptr, false);
    for (int64_t i = 0; i < in.batches * channels(); ++i)
      center[i] = static_cast<T>(mean[i / channels() * groups + i % channels() / width]);
    group_means(variance, center, true);
    for (int64_t i = 0; i < in.batches * channels(); ++i) {
      const int64_t group = i / channels() * groups + i % channels() / width;
      factor[i] = static_cast<T>(weight[i % channels()] / std::sqrt(variance[group] + eps));
    }
    for_chunks([&](int64_t b, int64_t, int64_t first, int64_t last) {
      const T *const m = center + b * channels(), *const f = factor + b * channels();
      for (int64_t p = first; p < last; ++p) apply(out.row(b, p), in.row(b, p), m, f);
    });
  }

  void apply(T* y, const T* x, const T* m, const T* f) const {
    if (silu) {
      for (int64_t i = 0; i < channels(); ++i) {
        const T value = multiply_add(x[i] - m[i], f[i], bias[i]);
        y[i] = value * sigmoid(value);
      }
    } else {
      for (int64_t i = 0; i < channels(); ++i) y[i] = multiply_add(x[i] - m[i], f[i], bias[i]);
    }
  }
};

}  // namespace

void CpuOps::group_norm(const Tensor& y, const Tensor& x, const Tensor& weight, const Tensor& bias,
                        int64_t groups, double eps, bool silu) {
  checks::group_norm(y, x, weight, bias, groups);
  for_dtype(y.dtype(), [&]<typename T>(T) {
    GroupNorm<T>{scratch_,           Rows<T>(y), Rows<T>(x), weight.as<const T>(),
                 bias.as<const T>(), groups,     eps,        silu}
        .run();
  });
}

}  // namespace fluxlora
