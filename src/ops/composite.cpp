// SPDX-License-Identifier: Apache-2.0
// Default bodies of the fused operations, in terms of the simple ones.
#include "base/error.h"
#include "ops/ops.h"

namespace fluxlora {

void Ops::linear_group(std::span<const LinearCall> calls) {
  for (const LinearCall& call : calls) linear(call.y, call.x, *call.weight, call.bias, call.mode);
}

void Ops::gate_add_ln_modulate(const Tensor& x_out, const Tensor& h, const Tensor& stats,
                               const Tensor& x, const Tensor& y, const Tensor& gate,
                               const Tensor& shift, const Tensor& scale) {
  if (y)
    gate_add(x_out, x, y, gate);
  else if (x_out.data() != x.data())
    copy(x_out, x);
  ln_modulate(h, stats, x_out, shift, scale);
}

void Ops::gate_add_ln_modulate_bwd(const Tensor& dx, const Tensor& dy, const Tensor& d_gate,
                                   const Tensor& d_shift, const Tensor& d_scale, const Tensor& dh,
                                   const Tensor& x_out, const Tensor& stats, const Tensor& scale,
                                   const Tensor& y, const Tensor& gate) {
  ln_modulate_bwd(dx, d_shift, d_scale, dh, x_out, stats, scale, Grad::accumulate);
  if (dy) gate_add_bwd(dy, d_gate, dx, y, gate);
}

}  // namespace fluxlora
