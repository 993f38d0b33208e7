// SPDX-License-Identifier: Apache-2.0
// Activation functions. gelu_tanh uses 0.5 (1 + tanh u) = σ(2u), which needs one exponential and
// loses no digits for large negative u.
#include <numbers>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/simd.h"
#include "ops/checks.h"

namespace fluxlora {
namespace {

/// Calls row(y, first_input, second_input, columns) for each row of equal shapes.
template <typename T, typename F>
void for_rows(const Tensor& y, const Tensor& a, const Tensor& b, F&& row) {
  const Rows<T> to(y), from(a), other(b);
  parallel_for(to.total(), row_grain(to.columns), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      row(to.row(r), static_cast<const T*>(from.row(r)),
          static_cast<const T*>(other ? other.row(r) : nullptr), to.columns);
  });
}

template <typename T>
constexpr T kGeluScale = T(2) * std::numbers::inv_sqrtpi_v<T> * std::numbers::sqrt2_v<T>;
template <typename T>
constexpr T kGeluCubic = T(0.044715);

/// σ(2u), u = sqrt(2/π) (x + 0.044715 x³).
template <typename T>
inline T gelu_gate_of(T x) {
  return sigmoid(kGeluScale<T> * x * multiply_add(kGeluCubic<T> * x, x, T(1)));
}

}  // namespace

void CpuOps::gelu_tanh(const Tensor& y, const Tensor& x) {
  checks::same("gelu_tanh", y, x);
  for_dtype(y.dtype(), [&]<typename T>(T) {
    for_rows<T>(y, x, {}, [](T* out, const T* in, const T*, int64_t n) {
      for (int64_t i = 0; i < n; ++i) out[i] = in[i] * gelu_gate_of(in[i]);
    });
  });
}

void CpuOps::gelu_tanh_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x) {
  checks::same("gelu_tanh_bwd", dx, dy);
  checks::same("gelu_tanh_bwd", dx, x);
  for_dtype(dx.dtype(), [&]<typename T>(T) {
    for_rows<T>(dx, dy, x, [](T* out, const T* grad, const T* in, int64_t n) {
      for (int64_t i = 0; i < n; ++i) {
        const T v = in[i], s = gelu_gate_of(v);
        const T du = kGeluScale<T> * multiply_add(3 * kGeluCubic<T> * v, v, T(1));
        out[i] = grad[i] * multiply_add(v * s * (T(1) - s), du, s);
      }
    });
  });
}

void CpuOps::silu(const Tensor& y, const Tensor& x) {
  checks::same("silu", y, x);
  for_dtype(y.dtype(), [&]<typename T>(T) {
    for_rows<T>(y, x, {}, [](T* out, const T* in, const T*, int64_t n) {
      for (int64_t i = 0; i < n; ++i) out[i] = in[i] * sigmoid(in[i]);
    });
  });
}

void CpuOps::silu_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x, Grad mode) {
  if (mode == Grad::ignore) return;
  checks::same("silu_bwd", dx, dy);
  checks::same("silu_bwd", dx, x);
  for_dtype(dx.dtype(), [&]<typename T>(T) {
    const T keep = mode == Grad::accumulate ? 1 : 0;
    for_rows<T>(dx, dy, x, [keep](T* out, const T* grad, const T* in, int64_t n) {
      for (int64_t i = 0; i < n; ++i) {
        const T s = sigmoid(in[i]);
        const T g = grad[i] * s * (T(1) + in[i] * (T(1) - s));
        out[i] = keep != 0 ? out[i] + g : g;
      }
    });
  });
}

void CpuOps::quick_gelu(const Tensor& y, const Tensor& x) {
  checks::same("quick_gelu", y, x);
  for_dtype(y.dtype(), [&]<typename T>(T) {
    for_rows<T>(y, x, {}, [](T* out, const T* in, const T*, int64_t n) {
      for (int64_t i = 0; i < n; ++i) out[i] = in[i] * sigmoid(T(1.702) * in[i]);
    });
  });
}

void CpuOps::quick_gelu_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x) {
  checks::same("quick_gelu_bwd", dx, dy);
  checks::same("quick_gelu_bwd", dx, x);
  for_dtype(dx.dtype(), [&]<typename T>(T) {
    for_rows<T>(dx, dy, x, [](T* out, const T* grad, const T* in, int64_t n) {
      for (int64_t i = 0; i < n; ++i) {
        const T s = sigmoid(T(1.702) * in[i]);
        out[i] = grad[i] * s * (T(1) + T(1.702) * in[i] * (T(1) - s));
      }
    });
  });
}

void CpuOps::gelu_gate(const Tensor& y, const Tensor& gate, const Tensor& up) {
  checks::same("gelu_gate", y, gate);
  checks::same("gelu_gate", y, up);
  for_dtype(y.dtype(), [&]<typename T>(T) {
    for_rows<T>(y, gate, up, [](T* out, const T* g, const T* u, int64_t n) {
      for (int64_t i = 0; i < n; ++i) out[i] = g[i] * gelu_gate_of(g[i]) * u[i];
    });
  });
}

}  // namespace fluxlora
