// SPDX-License-Identifier: Apache-2.0
// LayerNorm with modulation, the gated residual, and both in one pass over memory.
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/elementwise.cuh"
#include "backend/cuda/layer_norm.cuh"
#include "ops/checks.h"

namespace fluxlora::cuda {
namespace {

constexpr float kEps = 1e-6f;

template <typename T>
using Const = Rows<const T>;

template <typename T>
NormForward<T> forward_of(const Tensor& h, const Tensor& stats, const Tensor& x,
                          const Tensor& shift, const Tensor& scale) {
  NormForward<T> a{};
  a.h = Rows<T>(h);
  a.stats = Rows<float>(stats);
  a.x = Const<T>(x);
  a.shift = Const<T>::per_item(shift, x.dim(1));
  a.scale = Const<T>::per_item(scale, x.dim(1));
  a.eps = kEps;
  a.plus = 1;
  return a;
}

template <typename T>
NormBackward<T> backward_of(const Tensor& dx, const Tensor& dh, const Tensor& x,
                            const Tensor& stats, const Tensor& scale) {
  NormBackward<T> a{};
  a.dx = Rows<T>(dx);
  a.dh = Const<T>(dh);
  a.x = Const<T>(x);
  a.stats = Rows<const float>(stats);
  a.scale = Const<T>::per_item(scale, x.dim(1));
  a.plus = 1;
  return a;
}

/// Runs `a` with the sums over tokens that are wanted.
template <typename T>
void run_backward(Context& context, NormBackward<T>& a, const Tensor& d_shift,
                  const Tensor& d_scale, const Tensor& d_gate) {
  a.shift_sum = static_cast<bool>(d_shift);
  a.scale_sum = static_cast<bool>(d_scale);
  a.gate_sum = static_cast<bool>(d_gate);
  if (d_shift || d_scale || d_gate)
    a.sums = partial_sums(context, a.dh.batches, a.dh.rows, a.dh.columns);
  launch_norm_backward(context.stream(), a);
  if (!a.sums) return;
  const TokenSums<T> sums{{Rows<T>(d_shift), Rows<T>(d_scale), Rows<T>(d_gate)}};
  finish_sums(context.stream(), sums, a.sums, a.dh.batches, a.dh.rows);
}

struct GateAdd {  // x, y, gate
  __device__ float operator()(const float (&v)[3], int64_t) const { return fmaf(v[2], v[1], v[0]); }
};

struct Product {
  __device__ float operator()(const float (&v)[2], int64_t) const { return v[0] * v[1]; }
};

/// dy = gate dx and the chunk's Σ dx y. Grid: x columns, y chunks of tokens, z items.
template <int W, typename T>
__global__ void gate_backward_kernel(Rows<T> dy, Const<T> dx, Const<T> y, Const<T> gate,
                                     float* sums) {
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * W;
  const int64_t n = dx.columns, b = blockIdx.z, first = blockIdx.y * kSumTokens;
  if (column >= n) return;
  const int64_t last = first + kSumTokens < dx.rows ? first + kSumTokens : dx.rows;
  float factor[W], sum[W] = {};
  load<W>(factor, gate.row(b, 0) + column);
#pragma unroll 4
  for (int64_t t = first; t < last; ++t) {
    float g[W], v[W];
    load<W>(g, dx.row(b, t) + column);
    load<W>(v, y.row(b, t) + column);
#pragma unroll
    for (int i = 0; i < W; ++i) {
      sum[i] = fmaf(g[i], v[i], sum[i]);
      g[i] *= factor[i];
    }
    store<W>(dy.row(b, t) + column, g);
  }
  store<W>(sums + (b * gridDim.y + blockIdx.y) * kTokenSums * n + column, sum);
}

template <typename T>
void gate_backward(Context& context, Rows<T> dy, const Tensor& d_gate, Const<T> dx, Const<T> y,
                   Const<T> gate) {
  const int64_t chunks = sum_chunks(dx.rows);
  CHECK(chunks <= 65535, "gate_add_bwd: " + std::to_string(dx.rows) + " tokens");
  float* const partial = partial_sums(context, dx.batches, dx.rows, dx.columns);
  constexpr int kPack = kWidth<T>;
  const bool packed = all_pack(kPack, dy, dx, y, gate);
  const int64_t packs = packed ? dx.columns / kPack : dx.columns;
  const dim3 grid(blocks_for(packs, 128), static_cast<unsigned>(chunks),
                  static_cast<unsigned>(dx.batches));
  if (packed)
    gate_backward_kernel<kPack><<<grid, 128, 0, context.stream()>>>(dy, dx, y, gate, partial);
  else
    gate_backward_kernel<1><<<grid, 128, 0, context.stream()>>>(dy, dx, y, gate, partial);
  CUDA_CHECK_LAUNCH();
  finish_sums(context.stream(), TokenSums<T>{{Rows<T>(d_gate), {}, {}}}, partial, dx.batches,
              dx.rows);
}

}  // namespace

void CudaOps::ln_modulate(const Tensor& h, const Tensor& stats, const Tensor& x,
                          const Tensor& shift, const Tensor& scale) {
  checks::ln_modulate(h, stats, x, shift, scale);
  for_activations(h.dtype(), [&]<typename T>(T) {
    launch_norm_forward(stream(), forward_of<T>(h, stats, x, shift, scale));
  });
}

void CudaOps::ln_modulate_bwd(const Tensor& dx, const Tensor& d_shift, const Tensor& d_scale,
                              const Tensor& dh, const Tensor& x, const Tensor& stats,
                              const Tensor& scale, Grad mode) {
  checks::ln_modulate_bwd(dx, d_shift, d_scale, dh, x, stats, scale);
  const Tensor out = mode == Grad::ignore ? Tensor() : dx;
  if (!out && !d_shift && !d_scale) return;
  for_activations(dh.dtype(), [&]<typename T>(T) {
    NormBackward<T> a = backward_of<T>(out, dh, x, stats, scale);
    a.accumulate = mode == Grad::accumulate;
    run_backward(context_, a, d_shift, d_scale, {});
  });
}

void CudaOps::gate_add(const Tensor& x_out, const Tensor& x, const Tensor& y, const Tensor& gate) {
  checks::gate_add(x_out, x, y, gate);
  for_activations(x_out.dtype(), [&]<typename T>(T) {
    const Inputs<T, 3> in{{Const<T>(x), Const<T>(y), Const<T>::per_item(gate, x.dim(1))}};
    elementwise(stream(), Rows<T>(x_out), in, Join::none, GateAdd{});
  });
}

void CudaOps::gate_add_bwd(const Tensor& dy, const Tensor& d_gate, const Tensor& dx,
                           const Tensor& y, const Tensor& gate) {
  checks::gate_add_bwd(dy, d_gate, dx, y, gate);
  if (dx.size() == 0) return;
  for_activations(dx.dtype(), [&]<typename T>(T) {
    const auto factor = Const<T>::per_item(gate, dx.dim(1));
    if (d_gate)
      return gate_backward(context_, Rows<T>(dy), d_gate, Const<T>(dx), Const<T>(y), factor);
    const Inputs<T, 2> in{{Const<T>(dx), factor}};
    elementwise(stream(), Rows<T>(dy), in, Join::none, Product{});
  });
}

void CudaOps::gate_add_ln_modulate(const Tensor& x_out, const Tensor& h, const Tensor& stats,
                                   const Tensor& x, const Tensor& y, const Tensor& gate,
                                   const Tensor& shift, const Tensor& scale) {
  checks::ln_modulate(h, stats, x, shift, scale);
  if (y) checks::gate_add(x_out, x, y, gate);
  checks::same("gate_add_ln_modulate", x_out, x);
  for_activations(h.dtype(), [&]<typename T>(T) {
    NormForward<T> a = forward_of<T>(h, stats, x, shift, scale);
    if (y || x_out.data() != x.data()) a.x_out = Rows<T>(x_out);
    if (y) {
      a.y = Const<T>(y);
      a.gate = Const<T>::per_item(gate, x.dim(1));
    }
    launch_norm_forward(stream(), a);
  });
}

void CudaOps::gate_add_ln_modulate_bwd(const Tensor& dx, const Tensor& dy, const Tensor& d_gate,
                                       const Tensor& d_shift, const Tensor& d_scale,
                                       const Tensor& dh, const Tensor& x_out, const Tensor& stats,
                                       const Tensor& scale, const Tensor& y, const Tensor& gate) {
  checks::ln_modulate_bwd(dx, d_shift, d_scale, dh, x_out, stats, scale);
  if (dy) checks::gate_add_bwd(dy, d_gate, dx, y, gate);
  for_activations(dh.dtype(), [&]<typename T>(T) {
    NormBackward<T> a = backward_of<T>(dx, dh, x_out, stats, scale);
    a.accumulate = true;
    if (dy) {
      a.dy = Rows<T>(dy);
      a.gate = Const<T>::per_item(gate, x_out.dim(1));
      if (d_gate) a.y = Const<T>(y);
    }
    run_backward(context_, a, d_shift, d_scale, dy ? d_gate : Tensor());
  });
}

}  // namespace fluxlora::cuda
