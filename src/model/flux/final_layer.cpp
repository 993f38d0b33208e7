// SPDX-License-Identifier: Apache-2.0
// Output head.   Dims: docs/notation.md
#include "model/flux/final_layer.h"

namespace fluxlora::flux {

void forward(Ops& op, const Sizes& z, const FinalLayer& w, const Tensor& prediction,
             const Tensor& x, const Pending& before, const Conditioning& c, FinalSaved& s) {
  adapted_linear(op, s.mod, s.mod_t, c.silu_vec, w.modulation);  // (B, 2D)
  op.gate_add_ln_modulate(s.x1, s.h, s.stats, z.of(img, x), z.of(img, before.y), before.gate[img],
                          s.shift(), s.scale());
  adapted_linear(op, prediction, s.t, s.h, w.linear);  // (B, N, C)
}

void backward(Ops& op, const Sizes& z, const FinalLayer& w, const Tensor& d_prediction,
              const Pending& before, const Conditioning& c, const FinalSaved& s,
              const BlockGrads& d, const Scratch& scratch) {
  const Tensor d_h = z.of(img, scratch.d_h);
  adapted_linear_bwd(op, d_h, Grad::overwrite, scratch.dt(z.B, z.N(), w.linear.kept_columns()),
                     d_prediction, {{}, s.t, s.h, &w.linear});
  op.fill(d.dx, 0);
  if (before.y) op.fill(z.of(txt, scratch.d_y), 0);
  // A gate of the text stream's own (no single block before the head) sees no gradient.
  if (d.d_gate_before[txt] && d.d_gate_before[txt].data() != d.d_gate_before[img].data())
    op.fill(d.d_gate_before[txt], 0);
  const auto d_mod = [&](int64_t first, int64_t count) {
    return d.d_mod[0] ? d.d_mod[0].columns(first, count) : Tensor{};
  };
  op.gate_add_ln_modulate_bwd(z.of(img, d.dx), before.y ? z.of(img, scratch.d_y) : Tensor{},
                              d.d_gate_before[img], d_mod(0, z.D), d_mod(z.D, z.D), d_h, s.x1,
                              s.stats, s.scale(), z.of(img, before.y), before.gate[img]);
  if (d.d_mod[0])
    adapted_linear_bwd(op, d.d_silu_vec, Grad::accumulate,
                       scratch.dt(z.B, 0, w.modulation.kept_columns()), d_mod(0, 2 * z.D),
                       {s.mod, s.mod_t, c.silu_vec, &w.modulation});
}

}  // namespace fluxlora::flux
