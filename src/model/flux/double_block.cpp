// SPDX-License-Identifier: Apache-2.0
// MM-DiT block: two streams, one attention.   Dims: docs/notation.md
#include "model/flux/double_block.h"

#include <cmath>

namespace fluxlora::flux {
namespace {

AttentionOptions joint_attention(const Sizes& z) {
  return {.heads = z.H, .scale = 1 / std::sqrt(static_cast<double>(z.K))};
}

/// One linear layer of both streams: joint (B, S, C) tensors y and x, and which layer it is.
struct BothStreams {
  Tensor y, x;
  AdaptedLinear DoubleStream::* layer;
  Tensor DoubleSaved::PerStream::* t;

  AdaptedCall of(Stream st, const Sizes& z, const DoubleBlock& w, const DoubleSaved& s) const {
    return {z.of(st, y), s.stream[st].*t, z.of(st, x), &(w.stream[st].*layer)};
  }
};

void linear_streams(Ops& op, const Sizes& z, const DoubleBlock& w, const DoubleSaved& s,
                    const BothStreams& both) {
  const AdaptedCall calls[] = {both.of(txt, z, w, s), both.of(img, z, w, s)};
  adapted_linear_group(op, calls);
}

/// Its mirror: dx = dy W + adapters, joint tensors.
void linear_streams_bwd(Ops& op, const Sizes& z, const DoubleBlock& w, const DoubleSaved& s,
                        const BothStreams& both, const Tensor& dx, const Tensor& dy,
                        const Scratch& scratch) {
  for (Stream st : kStreams) {
    const AdaptedCall call = both.of(st, z, w, s);
    adapted_linear_bwd(op, z.of(st, dx), Grad::overwrite,
                       scratch.dt(z.B, z.tokens(st), call.layer->kept_columns()), z.of(st, dy),
                       call);
  }
}

}  // namespace

Pending pending(const DoubleSaved& s) {
  return {s.y2, {s.stream[txt].gate2(), s.stream[img].gate2()}};
}

void forward(Ops& op, const Sizes& z, const DoubleBlock& w, const Tensor& x, const Pending& before,
             const Conditioning& c, DoubleSaved& s, Stage todo) {
  using D = DoubleStream;
  using P = DoubleSaved::PerStream;
  for (Stream st : kStreams) {
    P& p = s.stream[st];
    if (has(todo, Stage::modulate))
      adapted_linear(op, p.mod, p.mod_t, c.silu_vec, w.stream[st].mod);  // (B, 6D)
    if (has(todo, Stage::norm))
      op.gate_add_ln_modulate(z.of(st, s.x1), z.of(st, s.h1), z.of(st, s.stats1), z.of(st, x),
                              z.of(st, before.y), before.gate[st], p.shift1(), p.scale1());
  }
  if (has(todo, Stage::project))
    linear_streams(op, z, w, s, {s.qkv, s.h1, &D::qkv, &P::qkv_t});  // (B, S, 3D)
  if (has(todo, Stage::rotate)) {
    for (Stream st : kStreams) {
      const Tensor pe = st == txt ? c.pe.slice(0, 0, z.M) : c.pe.slice(0, z.M, z.N());
      const QkNorm& norm = w.stream[st].norm;
      op.qk_norm_rope(z.of(st, s.q), z.of(st, s.k), z.of(st, s.qkv), norm.query_norm, norm.key_norm,
                      pe, z.H);  // (B, S, D) each
    }
  }
  if (has(todo, Stage::attend))
    op.attention(s.attn, s.lse, s.q, s.k, s.qkv.columns(2 * z.D, z.D), joint_attention(z));
  if (has(todo, Stage::merge))
    linear_streams(op, z, w, s, {s.y1, s.attn, &D::proj, &P::proj_t});  // (B, S, D)
  if (has(todo, Stage::renorm)) {
    // Without the projection x2 is there already, and only its norm is made again.
    const bool add = has(todo, Stage::merge);
    for (Stream st : kStreams) {
      const P& p = s.stream[st];
      op.gate_add_ln_modulate(z.of(st, s.x2), z.of(st, s.h2), z.of(st, s.stats2),
                              z.of(st, add ? s.x1 : s.x2), z.of(st, add ? s.y1 : Tensor{}),
                              p.gate1(), p.shift2(), p.scale2());
    }
  }
  if (has(todo, Stage::expand))
    linear_streams(op, z, w, s, {s.u, s.h2, &D::mlp0, &P::mlp0_t});  // (B, S, F)
  if (has(todo, Stage::activate)) op.gelu_tanh(s.g, s.u);
  if (has(todo, Stage::contract))
    linear_streams(op, z, w, s, {s.y2, s.g, &D::mlp2, &P::mlp2_t});  // (B, S, D)
}

void remake(Ops& op, const Sizes& z, const DoubleBlock& w, const Conditioning& c, DoubleSaved& s,
            Keep kept) {
  if (kept == Keep::all) return;
  Stage todo = Stage::norm | Stage::rotate | Stage::renorm | Stage::activate;
  if (kept <= Keep::attention) todo = todo | Stage::project | Stage::merge | Stage::expand;
  if (kept <= Keep::input) todo = todo | Stage::attend;
  forward(op, z, w, s.x1, {}, c, s, todo);
}

void backward(Ops& op, const Sizes& z, const DoubleBlock& w, const Pending& before,
              const Conditioning& c, const DoubleSaved& s, const BlockGrads& d,
              const Scratch& scratch) {
  using D = DoubleStream;
  using P = DoubleSaved::PerStream;
  const auto d_mod = [&](Stream st, int64_t part) {
    return d.d_mod[st] ? d.d_mod[st].columns(part * z.D, z.D) : Tensor{};  // (B, D)
  };
  const Tensor d_qkv = scratch.d_wide.columns(0, 3 * z.D);
  const Tensor d_u = scratch.d_wide.columns(0, z.F);

  // feed
  linear_streams_bwd(op, z, w, s, {s.y2, s.g, &D::mlp2, &P::mlp2_t}, d_u, scratch.d_y, scratch);
  op.gelu_tanh_bwd(d_u, d_u, s.u);
  linear_streams_bwd(op, z, w, s, {s.u, s.h2, &D::mlp0, &P::mlp0_t}, scratch.d_h, d_u, scratch);
  // merge
  for (Stream st : kStreams) {
    const P& p = s.stream[st];
    op.gate_add_ln_modulate_bwd(z.of(st, d.dx), z.of(st, scratch.d_y), d_mod(st, 2), d_mod(st, 3),
                                d_mod(st, 4), z.of(st, scratch.d_h), z.of(st, s.x2),
                                z.of(st, s.stats2), p.scale2(), z.of(st, s.y1), p.gate1());
  }
  linear_streams_bwd(op, z, w, s, {s.y1, s.attn, &D::proj, &P::proj_t}, scratch.d_attn, scratch.d_y,
                     scratch);
  // attend
  op.attention_bwd(scratch.dq, scratch.dk, d_qkv.columns(2 * z.D, z.D), scratch.d_attn, s.attn,
                   s.lse, s.q, s.k, s.qkv.columns(2 * z.D, z.D), joint_attention(z));
  // project
  for (Stream st : kStreams) {
    const Tensor pe = st == txt ? c.pe.slice(0, 0, z.M) : c.pe.slice(0, z.M, z.N());
    const QkNorm& norm = w.stream[st].norm;
    op.qk_norm_rope_bwd(z.of(st, d_qkv), z.of(st, scratch.dq), z.of(st, scratch.dk),
                        z.of(st, s.qkv), norm.query_norm, norm.key_norm, pe, z.H);
  }
  linear_streams_bwd(op, z, w, s, {s.qkv, s.h1, &D::qkv, &P::qkv_t}, scratch.d_h, d_qkv, scratch);
  for (Stream st : kStreams) {
    const P& p = s.stream[st];
    const Tensor d_y = before.y ? z.of(st, scratch.d_y) : Tensor{};
    op.gate_add_ln_modulate_bwd(
        z.of(st, d.dx), d_y, d.d_gate_before[st], d_mod(st, 0), d_mod(st, 1), z.of(st, scratch.d_h),
        z.of(st, s.x1), z.of(st, s.stats1), p.scale1(), z.of(st, before.y), before.gate[st]);
    if (d.d_mod[st])
      adapted_linear_bwd(op, d.d_silu_vec, Grad::accumulate,
                         scratch.dt(z.B, 0, w.stream[st].mod.kept_columns()), d.d_mod[st],
                         {p.mod, p.mod_t, c.silu_vec, &w.stream[st].mod});
  }
}

}  // namespace fluxlora::flux
