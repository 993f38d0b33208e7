// SPDX-License-Identifier: Apache-2.0
// The update of flat parameter buffers.
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
  checks::update("adamw_step", {p, m, v, g}, norm, scalars, 3);
  const double lr = scalar(scalars, 0), correction1 = scalar(scalars, 1);
  for_dtype(p.dtype(), [&]<typename T>(T) {
    const T factor = static_cast<T>(clip_factor(norm, options.max_norm));
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

void CpuOps::lion_step(const Tensor& p, const Tensor& m, const Tensor& g, const Tensor& norm,
                       const Tensor& scalars, const LionOptions& options) {
  checks::update("lion_step", {p, m, g}, norm, scalars, 1);
  const double lr = scalar(scalars, 0);
  for_dtype(p.dtype(), [&]<typename T>(T) {
    const T factor = static_cast<T>(clip_factor(norm, options.max_norm));
    const T decay = static_cast<T>(1 - lr * options.weight_decay), step = static_cast<T>(lr);
    const T beta1 = static_cast<T>(options.beta1), rest1 = static_cast<T>(1 - options.beta1);
    const T beta2 = static_cast<T>(options.beta2), rest2 = static_cast<T>(1 - options.beta2);
    T* const pd = p.as<T>();
    T* const md = m.as<T>();
    const T* const gd = g.as<const T>();
    parallel_for(p.size(), kChunk, [&](int64_t first, int64_t last) {
#pragma omp simd
      for (int64_t i = first; i < last; ++i) {
        const T grad = gd[i] * factor;
        const T way = beta1 * md[i] + rest1 * grad;
        const T sign = static_cast<T>((way > 0) - (way < 0));
        pd[i] = pd[i] * decay - step * sign;
        md[i] = beta2 * md[i] + rest2 * grad;
      }
    });
  });
}

namespace {

/// The codes of one of the moments.
template <typename T>
struct Codebook {
  const T* meaning;  // (256), ascending

  uint8_t nearest(T x) const {
    const auto middle_below = [this](int code, T value) {
      return (meaning[code] + meaning[code + 1]) / 2 < value;
    };
    int first = 0, last = 255;  // the first code whose middle to the next isn't below x
    while (first < last) {
      const int half = (first + last) / 2;
      if (middle_below(half, x))
        first = half + 1;
      else
        last = half;
    }
    return static_cast<uint8_t>(first);
  }

  /// Encodes `count` values; returns their scale.
  T encode(uint8_t* codes, const T* values, int64_t count) const {
    T largest = 0;
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(values[i]));
    const T over = largest > 0 ? 1 / largest : 0;
    for (int64_t i = 0; i < count; ++i) codes[i] = nearest(values[i] * over);
    return largest;
  }
};

}  // namespace

void CpuOps::adamw8bit_step(const Tensor& p, const Moments8& moments, const Tensor& g,
                            const Tensor& norm, const Tensor& scalars,
                            const AdamWOptions& options) {
  checks::adamw8bit_step(p, moments, g, norm, scalars);
  const double lr = scalar(scalars, 0);
  for_dtype(p.dtype(), [&]<typename T>(T) {
    const T factor = static_cast<T>(clip_factor(norm, options.max_norm));
    const T decay = static_cast<T>(1 - lr * options.weight_decay);
    const T beta1 = static_cast<T>(options.beta1), rest1 = static_cast<T>(1 - options.beta1);
    const T beta2 = static_cast<T>(options.beta2), rest2 = static_cast<T>(1 - options.beta2);
    const T step = static_cast<T>(lr / scalar(scalars, 1)), eps = static_cast<T>(options.eps);
    const T root2 = static_cast<T>(std::sqrt(scalar(scalars, 2)));
    const Codebook<T> m_book{moments.codes.as<const T>()}, v_book{m_book.meaning + 256};
    const int64_t blocks = moments.m_scale.size();
    parallel_for(blocks, 16, [&](int64_t first, int64_t last) {
      T m[kMomentBlock], v[kMomentBlock];
      for (int64_t b = first; b < last; ++b) {
        const int64_t at = b * kMomentBlock, count = std::min(kMomentBlock, p.size() - at);
        uint8_t* const mc = moments.m.as<uint8_t>() + at;
        uint8_t* const vc = moments.v.as<uint8_t>() + at;
        T &m_scale = moments.m_scale.as<T>()[b], &v_scale = moments.v_scale.as<T>()[b];
        T* const pd = p.as<T>() + at;
        const T* const gd = g.as<const T>() + at;
        for (int64_t i = 0; i < count; ++i) {
          const T grad = gd[i] * factor;
          m[i] = beta1 * (m_book.meaning[mc[i]] * m_scale) + rest1 * grad;
          v[i] = beta2 * (v_book.meaning[vc[i]] * v_scale) + rest2 * grad * grad;
          pd[i] = pd[i] * decay - step * m[i] / (std::sqrt(v[i]) / root2 + eps);
        }
        m_scale = m_book.encode(mc, m, count);
        v_scale = v_book.encode(vc, v, count);
      }
    });
  });
}

void CpuOps::schedule_free_step(const Tensor& y, const Tensor& z, const Tensor& v, const Tensor& g,
                                const Tensor& norm, const Tensor& scalars,
                                const ScheduleFreeOptions& options) {
  checks::update("schedule_free_step", {y, z, v, g}, norm, scalars, 3);
  const double lr = scalar(scalars, 0), c = scalar(scalars, 1);
  for_dtype(y.dtype(), [&]<typename T>(T) {
    const T factor = static_cast<T>(clip_factor(norm, options.max_norm));
    const T decay = static_cast<T>(options.weight_decay), eps = static_cast<T>(options.eps);
    const T beta2 = static_cast<T>(options.beta2), rest2 = static_cast<T>(1 - options.beta2);
    const T root2 = static_cast<T>(std::sqrt(scalar(scalars, 2)));
    const T z_step = static_cast<T>(lr), share = static_cast<T>(c);
    const T y_step = static_cast<T>(lr * (1 - options.beta1 * (1 - c)));
    T *const yd = y.as<T>(), *const zd = z.as<T>(), *const vd = v.as<T>();
    const T* const gd = g.as<const T>();
    parallel_for(y.size(), kChunk, [&](int64_t first, int64_t last) {
#pragma omp simd
      for (int64_t i = first; i < last; ++i) {
        const T grad = gd[i] * factor;
        vd[i] = beta2 * vd[i] + rest2 * grad * grad;
        const T d = grad / (std::sqrt(vd[i]) / root2 + eps) + decay * yd[i];
        yd[i] += share * (zd[i] - yd[i]) - y_step * d;
        zd[i] -= z_step * d;
      }
    });
  });
}

}  // namespace fluxlora
