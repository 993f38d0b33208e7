// SPDX-License-Identifier: Apache-2.0
// The output head: modulated norm of the image tokens, then a linear layer (flux-facts 1.8).
#pragma once

#include "model/flux/types.h"
#include "model/flux/weights.h"

namespace fluxlora::flux {

struct FinalSaved {
  Tensor mod;    // (B, 2D): shift, scale
  Tensor mod_t;  // (B, ΣR)
  Tensor t;      // (B, N, ΣR)
  Tensor x1;     // (B, N, D)
  Tensor stats;  // (B, N, 2)
  Tensor h;      // (B, N, D)

  Tensor shift() const { return mod.columns(0, mod.dim(1) / 2); }
  Tensor scale() const { return mod.columns(mod.dim(1) / 2, mod.dim(1) / 2); }

  template <typename F>
  void visit(const Sizes& z, const FinalLayer& w, F&& f) {
    f("mod", mod, {z.B, 2 * z.D}, z.act);
    f("mod_t", mod_t, {z.B, w.modulation.kept_columns()}, z.act);
    f("t", t, {z.B, z.N(), w.linear.kept_columns()}, z.act);
    f("x1", x1, {z.B, z.N(), z.D}, z.act);
    f("stats", stats, {z.B, z.N(), 2}, z.stat());
    f("h", h, {z.B, z.N(), z.D}, z.act);
  }
};

/// prediction (B, N, C) from the joint stream x (B, S, D) and what is pending on it.
void forward(Ops& op, const Sizes& z, const FinalLayer& w, const Tensor& prediction,
             const Tensor& x, const Pending& before, const Conditioning& c, FinalSaved& s);

/// The mirror: fills d.dx (B, S, D), scratch.d_y and d.d_gate_before from d_prediction (B, N, C);
/// the text tokens, which the head drops, get zeros. d.d_mod[0] (B, 2D or wider) is scratch or
/// empty.
void backward(Ops& op, const Sizes& z, const FinalLayer& w, const Tensor& d_prediction,
              const Pending& before, const Conditioning& c, const FinalSaved& s,
              const BlockGrads& d, const Scratch& scratch);

}  // namespace fluxlora::flux
