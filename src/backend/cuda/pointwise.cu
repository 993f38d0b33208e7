// SPDX-License-Identifier: Apache-2.0
// Activation functions. gelu_tanh uses 0.5 (1 + tanh u) = σ(2u), which needs one exponential and
// loses no digits for large negative u.
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/elementwise.cuh"
#include "ops/checks.h"

namespace fluxlora::cuda {
namespace {

__device__ __forceinline__ float sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + __expf(-x));
}

constexpr float kGeluScale = 1.5957691216057308f;  // 2 sqrt(2/π)
constexpr float kGeluCubic = 0.044715f;
constexpr float kQuick = 1.702f;

/// σ(2u), u = sqrt(2/π) (x + 0.044715 x³).
__device__ __forceinline__ float gelu_gate_of(float x) {
  return sigmoid(kGeluScale * x * fmaf(kGeluCubic * x, x, 1.0f));
}

struct GeluTanh {
  __device__ float operator()(const float (&x)[1], int64_t) const {
    return x[0] * gelu_gate_of(x[0]);
  }
};

struct GeluTanhBwd {  // dy, x
  __device__ float operator()(const float (&v)[2], int64_t) const {
    const float x = v[1], s = gelu_gate_of(x);
    const float du = kGeluScale * fmaf(3.0f * kGeluCubic * x, x, 1.0f);
    return v[0] * fmaf(x * s * (1.0f - s), du, s);
  }
};

struct Silu {
  __device__ float operator()(const float (&x)[1], int64_t) const { return x[0] * sigmoid(x[0]); }
};

__device__ __forceinline__ float silu_gradient(float dy, float x) {
  const float s = sigmoid(x);
  return dy * s * (1.0f + x * (1.0f - s));
}

struct SiluBwd {  // dy, x
  __device__ float operator()(const float (&v)[2], int64_t) const {
    return silu_gradient(v[0], v[1]);
  }
};

struct SiluBwdAdd {  // dy, x, dx
  __device__ float operator()(const float (&v)[3], int64_t) const {
    return v[2] + silu_gradient(v[0], v[1]);
  }
};

struct QuickGelu {
  __device__ float operator()(const float (&x)[1], int64_t) const {
    return x[0] * sigmoid(kQuick * x[0]);
  }
};

struct QuickGeluBwd {  // dy, x
  __device__ float operator()(const float (&v)[2], int64_t) const {
    const float s = sigmoid(kQuick * v[1]);
    return v[0] * s * (1.0f + kQuick * v[1] * (1.0f - s));
  }
};

struct GeluGate {  // gate, up
  __device__ float operator()(const float (&v)[2], int64_t) const {
    return v[0] * gelu_gate_of(v[0]) * v[1];
  }
};

}  // namespace

void CudaOps::gelu_tanh(const Tensor& y, const Tensor& x) {
  checks::same("gelu_tanh", y, x);
  elementwise<1>(stream(), y, {x}, GeluTanh{});
}

void CudaOps::gelu_tanh_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x) {
  checks::same("gelu_tanh_bwd", dx, dy);
  checks::same("gelu_tanh_bwd", dx, x);
  elementwise<2>(stream(), dx, {dy, x}, GeluTanhBwd{});
}

void CudaOps::silu(const Tensor& y, const Tensor& x) {
  checks::same("silu", y, x);
  elementwise<1>(stream(), y, {x}, Silu{});
}

void CudaOps::silu_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x, Grad mode) {
  if (mode == Grad::ignore) return;
  checks::same("silu_bwd", dx, dy);
  checks::same("silu_bwd", dx, x);
  if (mode == Grad::accumulate)
    elementwise<3>(stream(), dx, {dy, x, dx}, SiluBwdAdd{});
  else
    elementwise<2>(stream(), dx, {dy, x}, SiluBwd{});
}

void CudaOps::quick_gelu(const Tensor& y, const Tensor& x) {
  checks::same("quick_gelu", y, x);
  elementwise<1>(stream(), y, {x}, QuickGelu{});
}

void CudaOps::quick_gelu_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x) {
  checks::same("quick_gelu_bwd", dx, dy);
  checks::same("quick_gelu_bwd", dx, x);
  elementwise<2>(stream(), dx, {dy, x}, QuickGeluBwd{});
}

void CudaOps::gelu_gate(const Tensor& y, const Tensor& gate, const Tensor& up) {
  checks::same("gelu_gate", y, gate);
  checks::same("gelu_gate", y, up);
  elementwise<2>(stream(), y, {gate, up}, GeluGate{});
}

}  // namespace fluxlora::cuda
