// SPDX-License-Identifier: Apache-2.0
// A frozen linear layer with low-rank adapters on row ranges of its weight: the only LoRA maths.
//
//   y = x Wᵀ + b,  then for each adapter i:  y[:, rows_i] += m s_i (x A_iᵀ) B_iᵀ
//
// Several adapters may sit on one fused weight, because diffusers and PEFT train to_q, to_k, to_v
// and proj_mlp apart and kohya trains qkv and linear1 whole. Their A lie stacked, so that adapters
// that share an input need one product. Beside the layer's own adapters may lie those of an
// assistant: frozen, and on only while training (a training adapter of schnell).
#pragma once

#include <vector>

#include "ops/ops.h"

namespace fluxlora {

/// One adapter on rows [row0, row0 + rows) of the weight.
struct LoraSlice {
  int64_t row0 = 0, rows = 0;
  int64_t rank0 = 0, rank = 0;  ///< its columns in t and rows in A
  double scale = 1;             ///< s = alpha / rank
  Tensor B, dB;                 // (rows, rank)
};

/// Adapters that share A and m.
struct LoraStack {
  Tensor A, dA;  // (ΣR, in), stacked in the order of `adapters`; empty without
  std::vector<LoraSlice> adapters;
  Tensor multiplier;  ///< m: an f32 scalar on the device; 0 gives the base bit for bit

  int64_t rank() const { return A ? A.dim(0) : 0; }
  bool trains() const { return static_cast<bool>(dA); }
};

/// A linear layer with its own adapters.
struct AdaptedLinear : LoraStack {
  Weight weight;        // (out, in)
  Tensor bias;          // (out) or empty
  LoraStack assistant;  ///< never trains

  int64_t out() const { return weight.out(); }
  int64_t in() const { return weight.in(); }
  /// Of both stacks: the columns of t, own first.
  int64_t total_rank() const { return rank() + assistant.rank(); }
};

/// y (B, T, out) from x (B, T, in), or (B, C) both. t (B, T, ΣR) receives x Aᵀ and is kept for the
/// backward; empty without adapters.
void adapted_linear(Ops& op, const Tensor& y, const Tensor& t, const Tensor& x,
                    const AdaptedLinear& layer);

/// The same for independent layers of one shape class, whose base products the backend may group.
struct AdaptedCall {
  Tensor y, t, x;
  const AdaptedLinear* layer;
};
void adapted_linear_group(Ops& op, std::span<const AdaptedCall> calls);

/// dx (+)= dy W + dt A; dA += dtᵀ x; dB_i += m s_i dy_iᵀ t_i, with dt_i = m s_i dy_i B_i.
/// An empty dx means not needed. dt (B, T, ΣR) is scratch; the gradients always accumulate.
void adapted_linear_bwd(Ops& op, const Tensor& dx, Grad mode, const Tensor& dt, const Tensor& dy,
                        const Tensor& t, const Tensor& x, const AdaptedLinear& layer);

}  // namespace fluxlora
