// SPDX-License-Identifier: Apache-2.0
// Single-stream block: attention and feed-forward read the same norm, side by side
// (flux-facts 1.7).
#pragma once

#include "model/flux/types.h"
#include "model/flux/weights.h"

namespace fluxlora::flux {

/// What the forward keeps for the backward.
struct SingleSaved {
  Tensor y;       // (B, S, D)  pending when the block ends
  Tensor mod;     // (B, 3D): shift, scale, gate
  Tensor mod_t;   // (B, ΣR)
  Tensor t1, t2;  // (B, S, ΣR): x Aᵀ of linear1's and linear2's adapters
  Tensor x1;      // (B, S, D)  block input with the pending output added
  Tensor stats;   // (B, S, 2)
  Tensor h;       // (B, S, D)
  Tensor z1;      // (B, S, 3D + F): linear1's output: q, k, v, mlp
  Tensor q, k;    // (B, S, D)  normed and rotated
  Tensor lse;     // (B, H, S)
  Tensor cat;     // (B, S, D + F): attention, then GELU of mlp
  Tensor attn;    // (B, S, D)  cat's first columns, where they outlive it; else empty

  Tensor shift() const { return part(0); }
  Tensor scale() const { return part(1); }
  Tensor gate() const { return part(2); }
  Tensor part(int64_t i) const { return mod.columns(i * (mod.dim(1) / 3), mod.dim(1) / 3); }

  /// f(name, tensor, shape, dtype, lives) for each; sizes of the adapters come from the block.
  template <typename F>
  void visit(const Sizes& z, const SingleBlock& w, const Kept& kept, F&& f) {
    f("y", y, {z.B, z.S(), z.D}, z.act, kept.output(Lives::to_next));
    f("mod", mod, {z.B, 3 * z.D}, z.act, Lives::on);
    f("mod_t", mod_t, {z.B, w.modulation.kept_columns()}, z.act, Lives::on);
    f("t1", t1, {z.B, z.S(), w.linear1.kept_columns()}, z.act, kept.from(Keep::products));
    f("t2", t2, {z.B, z.S(), w.linear2.kept_columns()}, z.act, Lives::on);
    f("x1", x1, {z.B, z.S(), z.D}, z.act, Lives::on);
    f("stats", stats, {z.B, z.S(), 2}, z.stat(), kept.from(Keep::all));
    f("h", h, {z.B, z.S(), z.D}, z.act, kept.from(Keep::all));
    f("z1", z1, {z.B, z.S(), 3 * z.D + z.F}, z.act, kept.from(Keep::products));
    f("q", q, {z.B, z.S(), z.D}, z.act, kept.from(Keep::all));
    f("k", k, {z.B, z.S(), z.D}, z.act, kept.from(Keep::all));
    f("lse", lse, {z.B, z.H, z.S()}, z.stat(), kept.from(Keep::attention));
    f("cat", cat, {z.B, z.S(), z.D + z.F}, z.act, kept.from(Keep::all));
    attn = {};
    if (kept.level == Keep::attention || kept.level == Keep::products)
      f("attn", attn, {z.B, z.S(), z.D}, z.act, Lives::on);
  }
};

/// Runs the stages `todo` on x (B, S, D) and what is pending on it. On return the stream is s.x1
/// with pending(s).
void forward(Ops& op, const Sizes& z, const SingleBlock& w, const Tensor& x, const Pending& before,
             const Conditioning& c, SingleSaved& s, Stage todo = Stage::all);

/// Makes again what was not kept, before the backward.
void remake(Ops& op, const Sizes& z, const SingleBlock& w, const Conditioning& c, SingleSaved& s,
            Keep kept);

/// What the block leaves for the next to add.
Pending pending(const SingleSaved& s);

/// The mirror of forward; the contract is that of the double block's, with one modulation
/// d.d_mod[0].
void backward(Ops& op, const Sizes& z, const SingleBlock& w, const Pending& before,
              const Conditioning& c, const SingleSaved& s, const BlockGrads& d,
              const Scratch& scratch);

}  // namespace fluxlora::flux
