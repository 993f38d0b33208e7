// SPDX-License-Identifier: Apache-2.0
#include "model/adapted_linear.h"

namespace fluxlora {
namespace {

Tensor last_columns(const Tensor& x, int64_t first, int64_t count) {
  return x.slice(x.rank() - 1, first, count);
}

void add_adapters(Ops& op, const Tensor& y, const Tensor& t, const Tensor& x,
                  const AdaptedLinear& layer) {
  if (layer.adapters.empty()) return;
  op.dense(t, x, layer.A, {}, Grad::overwrite);  // (B, T, ΣR)
  for (const LoraSlice& lora : layer.adapters)
    op.dense(last_columns(y, lora.row0, lora.rows), last_columns(t, lora.rank0, lora.rank), lora.B,
             {lora.scale, layer.multiplier}, Grad::accumulate);
}

}  // namespace

void adapted_linear(Ops& op, const Tensor& y, const Tensor& t, const Tensor& x,
                    const AdaptedLinear& layer) {
  op.linear(y, x, layer.weight, layer.bias);
  add_adapters(op, y, t, x, layer);
}

void adapted_linear_group(Ops& op, std::span<const AdaptedCall> calls) {
  std::vector<LinearCall> products;
  for (const AdaptedCall& c : calls)
    products.push_back({c.y, c.x, &c.layer->weight, c.layer->bias});
  op.linear_group(products);
  for (const AdaptedCall& c : calls) add_adapters(op, c.y, c.t, c.x, *c.layer);
}

void adapted_linear_bwd(Ops& op, const Tensor& dx, Grad mode, const Tensor& dt, const Tensor& dy,
                        const Tensor& t, const Tensor& x, const AdaptedLinear& layer) {
  if (dx) op.linear_dx(dx, dy, layer.weight, mode);
  if (layer.adapters.empty()) return;
  for (const LoraSlice& lora : layer.adapters) {
    const Scale scale{lora.scale, layer.multiplier};
    const Tensor dy_rows = last_columns(dy, lora.row0, lora.rows);
    op.dense_dx(last_columns(dt, lora.rank0, lora.rank), dy_rows, lora.B, scale, Grad::overwrite);
    if (layer.trains())
      op.dense_dw(lora.dB, dy_rows, last_columns(t, lora.rank0, lora.rank), scale,
                  Grad::accumulate);
  }
  if (layer.trains()) op.dense_dw(layer.dA, dt, x, {}, Grad::accumulate);
  if (dx) op.dense_dx(dx, dt, layer.A, {}, Grad::accumulate);
}

}  // namespace fluxlora
