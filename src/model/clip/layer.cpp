// SPDX-License-Identifier: Apache-2.0
#include "model/clip/layer.h"

#include <cmath>

namespace fluxlora::clip {
namespace {

AttentionOptions attention_options(const Sizes& z) {
  const double head_width = static_cast<double>(z.C) / static_cast<double>(z.H);
  return {.heads = z.H, .scale = 1 / std::sqrt(head_width), .causal = true};
}

// (B, T, ΣR) of the flat scratch.
Tensor rank_scratch(const Sizes& z, const Scratch& scratch, const AdaptedLinear& layer) {
  const int64_t ranks = layer.kept_columns();
  if (ranks == 0) return {};
  return scratch.d_t.slice(0, 0, z.B * z.T * ranks).reshaped({z.B, z.T, ranks});
}

}  // namespace

void forward(Ops& op, const Sizes& z, const Layer& w, Saved& s, const Tensor& next,
             const Scratch& scratch) {
  op.layer_norm(s.n1, s.stats1, s.x, w.norm1.weight, w.norm1.bias, z.eps);
  const AdaptedCall projections[] = {
      {s.q, s.q_t, s.n1, &w.q}, {s.k, s.k_t, s.n1, &w.k}, {s.v, s.v_t, s.n1, &w.v}};
  adapted_linear_group(op, projections);
  op.attention(s.attn, s.lse, s.q, s.k, s.v, attention_options(z));
  adapted_linear(op, scratch.y, s.out_t, s.attn, w.out);
  op.copy(s.x1, s.x);
  op.add_scaled(s.x1, scratch.y, 1);

  op.layer_norm(s.n2, s.stats2, s.x1, w.norm2.weight, w.norm2.bias, z.eps);
  adapted_linear(op, s.u, s.fc1_t, s.n2, w.fc1);
  op.quick_gelu(s.g, s.u);
  adapted_linear(op, scratch.y, s.fc2_t, s.g, w.fc2);
  op.copy(next, s.x1);
  op.add_scaled(next, scratch.y, 1);
}

void backward(Ops& op, const Sizes& z, const Layer& w, const Saved& s, const Tensor& dx,
              const Scratch& scratch, bool stop) {
  const auto linear_bwd = [&](const Tensor& d_in, Grad mode, const Tensor& d_out, const Tensor& t,
                              const Tensor& in, const AdaptedLinear& layer) {
    adapted_linear_bwd(op, d_in, mode, rank_scratch(z, scratch, layer), d_out, {{}, t, in, &layer});
  };
  linear_bwd(scratch.d_g, Grad::overwrite, dx, s.fc2_t, s.g, w.fc2);
  op.quick_gelu_bwd(scratch.d_u, scratch.d_g, s.u);
  linear_bwd(scratch.d_n, Grad::overwrite, scratch.d_u, s.fc1_t, s.n2, w.fc1);
  op.layer_norm_bwd(dx, scratch.d_n, s.x1, s.stats2, w.norm2.weight, Grad::accumulate);

  linear_bwd(scratch.d_attn, Grad::overwrite, dx, s.out_t, s.attn, w.out);
  op.attention_bwd(scratch.dq, scratch.dk, scratch.dv, scratch.d_attn, s.attn, s.lse, s.q, s.k, s.v,
                   attention_options(z));
  const Tensor d_n1 = stop ? Tensor() : scratch.d_n;
  linear_bwd(d_n1, Grad::overwrite, scratch.dq, s.q_t, s.n1, w.q);
  linear_bwd(d_n1, Grad::accumulate, scratch.dk, s.k_t, s.n1, w.k);
  linear_bwd(d_n1, Grad::accumulate, scratch.dv, s.v_t, s.n1, w.v);
  if (!stop) op.layer_norm_bwd(dx, d_n1, s.x, s.stats1, w.norm1.weight, Grad::accumulate);
}

}  // namespace fluxlora::clip
