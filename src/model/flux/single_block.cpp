// SPDX-License-Identifier: Apache-2.0
// Single-stream block.   Dims: docs/notation.md
#include "model/flux/single_block.h"

#include <cmath>

namespace fluxlora::flux {
namespace {

AttentionOptions joint_attention(const Sizes& z) {
  return {.heads = z.H, .scale = 1 / std::sqrt(static_cast<double>(z.K))};
}

}  // namespace

Pending pending(const SingleSaved& s) {
  return {s.y, {s.gate(), s.gate()}};
}

void forward(Ops& op, const Sizes& z, const SingleBlock& w, const Tensor& x, const Pending& before,
             const Conditioning& c, SingleSaved& s, Stage todo) {
  const Tensor attn = s.cat.columns(0, z.D);  // (B, S, D)
  if (has(todo, Stage::modulate))
    adapted_linear(op, s.mod, s.mod_t, c.silu_vec, w.modulation);  // (B, 3D)
  if (has(todo, Stage::norm)) {
    std::array<PendingPart, 2> storage;
    for (const PendingPart& p : pending_parts(z, before, storage)) {
      const auto of = [&](const Tensor& t) { return t ? t.tokens(p.first, p.count) : t; };
      op.gate_add_ln_modulate(of(s.x1), of(s.h), of(s.stats), of(x), of(before.y),
                              before.gate[static_cast<size_t>(p.stream)], s.shift(), s.scale());
    }
  }
  if (has(todo, Stage::project)) adapted_linear(op, s.z1, s.t1, s.h, w.linear1);  // (B, S, 3D + F)
  if (has(todo, Stage::rotate))
    op.qk_norm_rope(s.q, s.k, s.z1, w.norm.query_norm, w.norm.key_norm, c.pe, z.H);
  if (has(todo, Stage::attend)) {
    op.attention(attn, s.lse, s.q, s.k, s.z1.columns(2 * z.D, z.D), joint_attention(z));
    if (s.attn) op.copy(s.attn, attn);
  }
  if (has(todo, Stage::activate)) {
    if (s.attn && !has(todo, Stage::attend)) op.copy(attn, s.attn);
    op.gelu_tanh(s.cat.columns(z.D, z.F), s.z1.columns(3 * z.D, z.F));
  }
  if (has(todo, Stage::contract)) adapted_linear(op, s.y, s.t2, s.cat, w.linear2);  // (B, S, D)
}

void remake(Ops& op, const Sizes& z, const SingleBlock& w, const Conditioning& c, SingleSaved& s,
            Keep kept) {
  if (kept == Keep::all) return;
  Stage todo = Stage::norm | Stage::rotate | Stage::activate;
  if (kept <= Keep::attention) todo = todo | Stage::project;
  if (kept <= Keep::input) todo = todo | Stage::attend;
  forward(op, z, w, s.x1, {}, c, s, todo);
}

void backward(Ops& op, const Sizes& z, const SingleBlock& w, const Pending& before,
              const Conditioning& c, const SingleSaved& s, const BlockGrads& d,
              const Scratch& scratch) {
  const auto d_mod = [&](int64_t part) {
    return d.d_mod[0] ? d.d_mod[0].columns(part * z.D, z.D) : Tensor{};  // (B, D)
  };
  const Tensor& d_z1 = scratch.d_wide;  // (B, S, 3D + F)
  const Tensor& d_cat = scratch.d_cat;  // (B, S, D + F)

  // feed
  adapted_linear_bwd(op, d_cat, Grad::overwrite, scratch.dt(z.B, z.S(), w.linear2.kept_columns()),
                     scratch.d_y, {s.y, s.t2, s.cat, &w.linear2});
  // attend
  op.gelu_tanh_bwd(d_z1.columns(3 * z.D, z.F), d_cat.columns(z.D, z.F), s.z1.columns(3 * z.D, z.F));
  op.attention_bwd(scratch.dq, scratch.dk, d_z1.columns(2 * z.D, z.D), d_cat.columns(0, z.D),
                   s.cat.columns(0, z.D), s.lse, s.q, s.k, s.z1.columns(2 * z.D, z.D),
                   joint_attention(z));
  // project
  op.qk_norm_rope_bwd(d_z1, scratch.dq, scratch.dk, s.z1, w.norm.query_norm, w.norm.key_norm, c.pe,
                      z.H);
  adapted_linear_bwd(op, scratch.d_h, Grad::overwrite,
                     scratch.dt(z.B, z.S(), w.linear1.kept_columns()), d_z1,
                     {s.z1, s.t1, s.h, &w.linear1});
  std::array<PendingPart, 2> storage;
  const auto parts = pending_parts(z, before, storage);
  for (const PendingPart& p : parts) {
    const auto of = [&](const Tensor& t) { return t ? t.tokens(p.first, p.count) : t; };
    const auto stream = static_cast<size_t>(p.stream);
    // The modulation is shared by both parts: the second one's sums are added to the first one's.
    const bool add = p.first != 0 && d.d_mod[0];
    const Tensor d_shift = add ? scratch.d_sums.columns(0, z.D) : d_mod(0);
    const Tensor d_scale = add ? scratch.d_sums.columns(z.D, z.D) : d_mod(1);
    op.gate_add_ln_modulate_bwd(
        of(d.dx), before.y ? of(scratch.d_y) : Tensor{}, d.d_gate_before[stream], d_shift, d_scale,
        of(scratch.d_h), of(s.x1), of(s.stats), s.scale(), of(before.y), before.gate[stream]);
    if (add) op.add_scaled(d.d_mod[0].columns(0, 2 * z.D), scratch.d_sums, 1);
  }
  if (d.d_mod[0])
    adapted_linear_bwd(op, d.d_silu_vec, Grad::accumulate,
                       scratch.dt(z.B, 0, w.modulation.kept_columns()),
                       d.d_mod[0].columns(0, 3 * z.D), {s.mod, s.mod_t, c.silu_vec, &w.modulation});
}

}  // namespace fluxlora::flux
