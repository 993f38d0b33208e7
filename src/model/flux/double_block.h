// SPDX-License-Identifier: Apache-2.0
// MM-DiT block: two streams with weights of their own, one attention over both (flux-facts 1.6).
#pragma once

#include "model/flux/types.h"
#include "model/flux/weights.h"

namespace fluxlora::flux {

/// What the forward keeps for the backward.
struct DoubleSaved {
  struct PerStream {
    Tensor mod;                            // (B, 6D)
    Tensor mod_t;                          // (B, ΣR)
    Tensor qkv_t, proj_t, mlp0_t, mlp2_t;  // (B, T, ΣR): x Aᵀ of the adapters
    /// The six modulation vectors, (B, D).
    Tensor shift1() const { return part(0); }
    Tensor scale1() const { return part(1); }
    Tensor gate1() const { return part(2); }
    Tensor shift2() const { return part(3); }
    Tensor scale2() const { return part(4); }
    Tensor gate2() const { return part(5); }
    Tensor part(int64_t i) const { return mod.columns(i * (mod.dim(1) / 6), mod.dim(1) / 6); }
  };
  Tensor y2;  // (B, S, D)  pending when the block ends
  std::array<PerStream, 2> stream;
  Tensor x1;      // (B, S, D)  block input with the pending output added
  Tensor stats1;  // (B, S, 2)
  Tensor h1;      // (B, S, D)  modulated norm of x1
  Tensor qkv;     // (B, S, 3D)
  Tensor q, k;    // (B, S, D)  normed and rotated
  Tensor attn;    // (B, S, D)
  Tensor lse;     // (B, H, S)
  Tensor y1;      // (B, S, D)  projected attention
  Tensor x2;      // (B, S, D)
  Tensor stats2;  // (B, S, 2)
  Tensor h2;      // (B, S, D)
  Tensor u;       // (B, S, F)  before GELU
  Tensor g;       // (B, S, F)  after

  /// f(name, tensor, shape, dtype, lives) for each; sizes of the adapters come from the block.
  template <typename F>
  void visit(const Sizes& z, const DoubleBlock& w, const Kept& kept, F&& f) {
    const Lives x2_lives = kept.level >= Keep::products ? Lives::on : Lives::to_next;
    f("y2", y2, {z.B, z.S(), z.D}, z.act, kept.output(Lives::to_next));
    for (Stream s : kStreams) {
      const DoubleStream& ws = w.stream[s];
      PerStream& p = stream[s];
      const std::string name = s == txt ? "txt." : "img.";
      const int64_t T = z.tokens(s);
      const Lives products = kept.from(Keep::products);
      f(name + "mod", p.mod, {z.B, 6 * z.D}, z.act, Lives::on);
      f(name + "mod_t", p.mod_t, {z.B, ws.mod.kept_columns()}, z.act, Lives::on);
      f(name + "qkv_t", p.qkv_t, {z.B, T, ws.qkv.kept_columns()}, z.act, products);
      f(name + "proj_t", p.proj_t, {z.B, T, ws.proj.kept_columns()}, z.act, products);
      f(name + "mlp0_t", p.mlp0_t, {z.B, T, ws.mlp0.kept_columns()}, z.act, products);
      f(name + "mlp2_t", p.mlp2_t, {z.B, T, ws.mlp2.kept_columns()}, z.act, Lives::on);
    }
    f("x1", x1, {z.B, z.S(), z.D}, z.act, Lives::on);
    f("stats1", stats1, {z.B, z.S(), 2}, z.stat(), kept.from(Keep::all));
    f("h1", h1, {z.B, z.S(), z.D}, z.act, kept.from(Keep::all));
    f("qkv", qkv, {z.B, z.S(), 3 * z.D}, z.act, kept.from(Keep::products));
    f("q", q, {z.B, z.S(), z.D}, z.act, kept.from(Keep::all));
    f("k", k, {z.B, z.S(), z.D}, z.act, kept.from(Keep::all));
    f("attn", attn, {z.B, z.S(), z.D}, z.act, kept.from(Keep::attention));
    f("lse", lse, {z.B, z.H, z.S()}, z.stat(), kept.from(Keep::attention));
    f("y1", y1, {z.B, z.S(), z.D}, z.act, kept.output(Lives::in_block));
    f("x2", x2, {z.B, z.S(), z.D}, z.act, x2_lives);
    f("stats2", stats2, {z.B, z.S(), 2}, z.stat(), kept.from(Keep::all));
    f("h2", h2, {z.B, z.S(), z.D}, z.act, kept.from(Keep::all));
    f("u", u, {z.B, z.S(), z.F}, z.act, kept.from(Keep::products));
    f("g", g, {z.B, z.S(), z.F}, z.act, kept.from(Keep::all));
  }
};

/// Runs the stages `todo` on block input x (B, S, D) and what is pending on it. On return the
/// stream is s.x2 with pending(s).
void forward(Ops& op, const Sizes& z, const DoubleBlock& w, const Tensor& x, const Pending& before,
             const Conditioning& c, DoubleSaved& s, Stage todo = Stage::all);

/// Makes again what was not kept, before the backward.
void remake(Ops& op, const Sizes& z, const DoubleBlock& w, const Conditioning& c, DoubleSaved& s,
            Keep kept);

/// What the block leaves for the next to add.
Pending pending(const DoubleSaved& s);

/// The mirror of forward. On entry d.dx is dL/dx2 of the residual path, scratch.d_y the gradient of
/// the pending y2 and the gate2 columns of d.d_mod that of its gates; on return they are dL/dx, the
/// gradient of before.y, and d.d_gate_before. Adapters' gradients accumulate.
void backward(Ops& op, const Sizes& z, const DoubleBlock& w, const Pending& before,
              const Conditioning& c, const DoubleSaved& s, const BlockGrads& d,
              const Scratch& scratch);

}  // namespace fluxlora::flux
