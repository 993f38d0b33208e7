// SPDX-License-Identifier: Apache-2.0
// RMSNorm of each head of q and k, and rotation by the positions.
#include <cmath>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/simd.h"
#include "ops/checks.h"

namespace fluxlora {
namespace {

constexpr double kEps = 1e-6;

template <typename T>
T inverse_rms(const T* x, int64_t width) {
  const T square = sum_of<T>(width, [x](int64_t i) { return x[i] * x[i]; });
  return T(1) / std::sqrt(square / static_cast<T>(width) + static_cast<T>(kEps));
}

/// One head: y = R(pe) (x / rms(x) w).
template <typename T>
void head_forward(T* y, const T* x, const T* w, const T* pe, int64_t width) {
  const T inverse = inverse_rms(x, width);
  for (int64_t i = 0; i < width; i += 2) {
    const T a = x[i] * inverse * w[i], b = x[i + 1] * inverse * w[i + 1];
    const T cosine = pe[i], sine = pe[i + 1];
    y[i] = a * cosine - b * sine;
    y[i + 1] = a * sine + b * cosine;
  }
}

/// With g = w Rᵀ dy: dx = (g - x mean(g x) / rms²) / rms.
template <typename T>
void head_backward(T* dx, const T* dy, const T* x, const T* w, const T* pe, int64_t width) {
  const T inverse = inverse_rms(x, width);
  for (int64_t i = 0; i < width; i += 2) {
    const T cosine = pe[i], sine = pe[i + 1];
    dx[i] = (dy[i] * cosine + dy[i + 1] * sine) * w[i];
    dx[i + 1] = (dy[i + 1] * cosine - dy[i] * sine) * w[i + 1];
  }
  const T dot = sum_of<T>(width, [=](int64_t i) { return dx[i] * x[i]; });
  const T slope = dot * inverse * inverse / static_cast<T>(width);
  for (int64_t i = 0; i < width; ++i) dx[i] = (dx[i] - x[i] * slope) * inverse;
}

}  // namespace

void CpuOps::qk_norm_rope(const Tensor& q, const Tensor& k, const Tensor& qkv,
                          const Tensor& q_weight, const Tensor& k_weight, const Tensor& pe,
                          int64_t heads) {
  checks::qk_norm_rope(q, k, qkv, q_weight, k_weight, pe, heads);
  for_dtype(q.dtype(), [&]<typename T>(T) {
    const Rows<T> q_rows(q), k_rows(k), in(qkv), angles(pe.reshaped({pe.dim(0), pe.dim(1) * 2}));
    const T *const qw = q_weight.as<const T>(), *const kw = k_weight.as<const T>();
    const int64_t width = q_rows.columns / heads, model_width = q_rows.columns;
    parallel_for(in.total(), row_grain(2 * model_width), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const T *const x = in.row(r), *const a = angles.row(r % in.rows);
        for (int64_t h = 0; h < model_width; h += width) {
          head_forward(q_rows.row(r) + h, x + h, qw, a, width);
          head_forward(k_rows.row(r) + h, x + model_width + h, kw, a, width);
        }
      }
    });
  });
}

void CpuOps::qk_norm_rope_bwd(const Tensor& d_qkv, const Tensor& dq, const Tensor& dk,
                              const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                              const Tensor& pe, int64_t heads) {
  checks::qk_norm_rope(dq, dk, qkv, q_weight, k_weight, pe, heads);
  checks::qk_norm_rope(dq, dk, d_qkv, q_weight, k_weight, pe, heads);
  for_dtype(dq.dtype(), [&]<typename T>(T) {
    const Rows<T> q_rows(dq), k_rows(dk), in(qkv), out(d_qkv),
        angles(pe.reshaped({pe.dim(0), pe.dim(1) * 2}));
    const T *const qw = q_weight.as<const T>(), *const kw = k_weight.as<const T>();
    const int64_t width = q_rows.columns / heads, model_width = q_rows.columns;
    parallel_for(in.total(), row_grain(2 * model_width), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const T *const x = in.row(r), *const a = angles.row(r % in.rows);
        T* const d = out.row(r);
        for (int64_t h = 0; h < model_width; h += width) {
          head_backward(d + h, q_rows.row(r) + h, x + h, qw, a, width);
          head_backward(d + model_width + h, k_rows.row(r) + h, x + model_width + h, kw, a, width);
        }
      }
    });
  });
}

}  // namespace fluxlora
