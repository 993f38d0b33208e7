// SPDX-License-Identifier: Apache-2.0
// A frozen linear layer with low-rank adapters on row ranges of its weight: the only LoRA maths.
//
//   y = x Wᵀ + b,  then for each adapter i:  y[:, rows_i] += m s_i (x A_iᵀ) B_iᵀ
//
// Several adapters may sit on one fused weight, because diffusers and PEFT train to_q, to_k, to_v
// and proj_mlp apart and kohya trains qkv and linear1 whole. Their A lie stacked, so that adapters
// that share an input need one product. Beside the layer's own adapters may lie those of an
// assistant: frozen, and on only while training (a training adapter of schnell), and the start of
// adapters that did not begin at zero: frozen, and subtracted.
//
// DoRA scales rows: y[:, rows_i] = b + (1 + m (g - 1)) ⊙ x Wᵀ + m s_i (x A_iᵀ) (g ⊙ B_i)ᵀ with g =
// magnitude / |W + s B A| by rows, and |W + s B A|² = |W|² + 2 s rowdot(W Aᵀ, B) +
// s² diag(B A Aᵀ Bᵀ): no weight is ever merged. The norm is a constant to the backward, as in the
// paper and in PEFT.
#pragma once

#include <vector>

#include "ops/ops.h"

namespace fluxlora {

/// DoRA of an adapter's rows (Liu et al. 2024): magnitude ⊙ (W + s B A) / |W + s B A|.
struct DoraRows {
  Tensor magnitude, d_magnitude;  // (rows); d_magnitude is empty unless it trains
  Tensor square;                  // (rows): |W|²
  Tensor gain, scaled_B;  // (rows), (rows, rank): magnitude / norm and gain B, made by every
                          // forward
  explicit operator bool() const { return static_cast<bool>(magnitude); }
};

/// One adapter on rows [row0, row0 + rows) of the weight.
struct LoraSlice {
  int64_t row0 = 0, rows = 0;
  int64_t rank0 = 0, rank = 0;  ///< its columns in t and rows in A
  double scale = 1;             ///< s = alpha / rank
  Tensor B, dB;                 // (rows, rank)
  DoraRows dora;                ///< empty for a plain adapter
};

/// Adapters that share A and m.
struct LoraStack {
  Tensor A, dA;  // (ΣR, in), stacked in the order of `adapters`; empty without
  std::vector<LoraSlice> adapters;
  Tensor multiplier;       ///< m: an f32 scalar on the device; 0 gives the base bit for bit
  DropoutOptions dropout;  ///< of x Aᵀ, or of x; rate 0: none
  bool drops_input = false;
  // Work memory of DoRA, shared by the layers: A Wᵀ (ΣR, out), A Aᵀ and B A Aᵀ of one adapter,
  // flat.
  Tensor cross, gram, second;

  int64_t rank() const { return A ? A.dim(0) : 0; }
  bool trains() const { return static_cast<bool>(dA); }
};

/// A linear layer with its own adapters.
struct AdaptedLinear : LoraStack {
  Weight weight;        // (out, in)
  Tensor bias;          // (out) or empty
  LoraStack assistant;  ///< never trains
  LoraStack start;      ///< what the adapters began as, subtracted (scale -s); never trains

  int64_t out() const { return weight.out(); }
  int64_t in() const { return weight.in(); }
  /// The columns of t: ranks of own adapters, assistant and start, then the input after dropout.
  int64_t kept_columns() const { return ranks() + (drops_input && dropout.rate > 0 ? in() : 0); }
  int64_t ranks() const { return rank() + assistant.rank() + start.rank(); }
};

/// A layer's output y (B, T, out) and input x (B, T, in), or (B, C) both. t (B, T, kept_columns())
/// receives x Aᵀ after dropout (with drops_input also x after dropout) and is kept for the
/// backward; empty without adapters.
struct AdaptedCall {
  Tensor y, t, x;
  const AdaptedLinear* layer;
};

void adapted_linear(Ops& op, const Tensor& y, const Tensor& t, const Tensor& x,
                    const AdaptedLinear& layer);
/// The same for independent layers of one shape class, whose base products the backend may group.
void adapted_linear_group(Ops& op, std::span<const AdaptedCall> calls);

/// dx (+)= dy W + dt A; dA += dtᵀ x; dB_i += m s_i dy_iᵀ t_i, with dt_i = m s_i dy_i B_i. With DoRA
/// y is needed, m is 1, and dy is used up: gain dy takes its place; d_magnitude accumulates.
/// An empty dx means not needed. dt (B, T, kept_columns()) is scratch; the gradients of adapters
/// always accumulate.
void adapted_linear_bwd(Ops& op, const Tensor& dx, Grad mode, const Tensor& dt, const Tensor& dy,
                        const AdaptedCall& forward);

}  // namespace fluxlora
