// SPDX-License-Identifier: Apache-2.0
// One layer of CLIP's text model: causal attention and feed-forward, both with pre-norm
// (flux-facts 5.1).
#pragma once

#include "model/clip/weights.h"

namespace fluxlora::clip {

struct Sizes {
  int64_t B = 1, T = 77, C = 768, H = 12, F = 3072;
  double eps = 1e-5;
  DType act = DType::f32;
  /// dtype of statistics.
  DType stat() const { return act == DType::f64 ? DType::f64 : DType::f32; }
};

/// What the forward keeps for the backward.
struct Saved {
  Tensor x;                     // (B, T, C)  input
  Tensor stats1;                // (B, T, 2)
  Tensor n1;                    // (B, T, C)  normed
  Tensor q, k, v;               // (B, T, C)
  Tensor attn;                  // (B, T, C)
  Tensor lse;                   // (B, H, T)
  Tensor x1;                    // (B, T, C)  after the attention's residual
  Tensor stats2;                // (B, T, 2)
  Tensor n2;                    // (B, T, C)
  Tensor u, g;                  // (B, T, F)  before and after the activation
  Tensor q_t, k_t, v_t, out_t;  // (B, T, ΣR) x Aᵀ of the adapters; empty without
  Tensor fc1_t, fc2_t;          // (B, T, ΣR)

  /// f(name, tensor, shape, dtype) for each; the sizes of the adapters come from the layer.
  template <typename F>
  void visit(const Sizes& z, const Layer& w, F&& f) {
    using Shape = std::initializer_list<int64_t>;
    const Shape wide{z.B, z.T, z.C};
    f("x", x, wide, z.act);
    f("stats1", stats1, Shape{z.B, z.T, 2}, z.stat());
    f("n1", n1, wide, z.act);
    f("q", q, wide, z.act);
    f("k", k, wide, z.act);
    f("v", v, wide, z.act);
    f("attn", attn, wide, z.act);
    f("lse", lse, Shape{z.B, z.H, z.T}, z.stat());
    f("x1", x1, wide, z.act);
    f("stats2", stats2, Shape{z.B, z.T, 2}, z.stat());
    f("n2", n2, wide, z.act);
    f("u", u, Shape{z.B, z.T, z.F}, z.act);
    f("g", g, Shape{z.B, z.T, z.F}, z.act);
    f("q_t", q_t, Shape{z.B, z.T, w.q.kept_columns()}, z.act);
    f("k_t", k_t, Shape{z.B, z.T, w.k.kept_columns()}, z.act);
    f("v_t", v_t, Shape{z.B, z.T, w.v.kept_columns()}, z.act);
    f("out_t", out_t, Shape{z.B, z.T, w.out.kept_columns()}, z.act);
    f("fc1_t", fc1_t, Shape{z.B, z.T, w.fc1.kept_columns()}, z.act);
    f("fc2_t", fc2_t, Shape{z.B, z.T, w.fc2.kept_columns()}, z.act);
  }
};

/// Scratch of both directions, shared by all layers.
struct Scratch {
  Tensor y;           // (B, T, C)  what is added to the stream
  Tensor d_n;         // (B, T, C)
  Tensor d_attn;      // (B, T, C)
  Tensor dq, dk, dv;  // (B, T, C)
  Tensor d_g, d_u;    // (B, T, F)
  Tensor d_t;         // flat: (B, T, widest ΣR); empty without adapters

  /// f(name, tensor, shape, dtype) for each that is needed.
  template <typename F>
  void visit(const Sizes& z, int64_t widest_rank, bool backward, F&& f) {
    using Shape = std::initializer_list<int64_t>;
    const Shape wide{z.B, z.T, z.C};
    f("y", y, wide, z.act);
    if (!backward) return;
    f("d_n", d_n, wide, z.act);
    f("d_attn", d_attn, wide, z.act);
    f("dq", dq, wide, z.act);
    f("dk", dk, wide, z.act);
    f("dv", dv, wide, z.act);
    f("d_g", d_g, Shape{z.B, z.T, z.F}, z.act);
    f("d_u", d_u, Shape{z.B, z.T, z.F}, z.act);
    f("d_t", d_t, Shape{z.B * z.T * widest_rank}, z.act);
  }
};

/// next (B, T, C) = the layer's output for input s.x; next may be s.x.
void forward(Ops& op, const Sizes& z, const Layer& w, Saved& s, const Tensor& next,
             const Scratch& scratch);

/// The mirror of forward: dx holds dL/dnext on entry and dL/dx on return, unless `stop` (no layer
/// before this one trains: then it holds nothing of use). Adapters' gradients accumulate.
void backward(Ops& op, const Sizes& z, const Layer& w, const Saved& s, const Tensor& dx,
              const Scratch& scratch, bool stop);

}  // namespace fluxlora::clip
