// SPDX-License-Identifier: Apache-2.0
#include "model/adapted_linear.h"

namespace fluxlora {
namespace {

Tensor last_columns(const Tensor& x, int64_t first, int64_t count) {
  return x.slice(x.rank() - 1, first, count);
}

/// Calls f(stack, first of its columns in t) for the stacks that have adapters.
template <typename F>
void for_stacks(const AdaptedLinear& layer, F&& f) {
  if (layer.rank()) f(static_cast<const LoraStack&>(layer), int64_t{0});
  if (layer.assistant.rank()) f(layer.assistant, layer.rank());
}

void add_adapters(Ops& op, const Tensor& y, const Tensor& all_t, const Tensor& x,
                  const AdaptedLinear& layer) {
  for_stacks(layer, [&](const LoraStack& stack, int64_t first) {
    const Tensor t = last_columns(all_t, first, stack.rank());
    op.dense(t, x, stack.A, {}, Grad::overwrite);  // (B, T, ΣR)
    for (const LoraSlice& lora : stack.adapters)
      op.dense(last_columns(y, lora.row0, lora.rows), last_columns(t, lora.rank0, lora.rank),
               lora.B, {lora.scale, stack.multiplier}, Grad::accumulate);
  });
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
  for_stacks(layer, [&](const LoraStack& stack, int64_t first) {
    if (!dx && !stack.trains()) return;
    const Tensor dt_stack = last_columns(dt, first, stack.rank());
    for (const LoraSlice& lora : stack.adapters) {
      const Scale scale{lora.scale, stack.multiplier};
      const Tensor dy_rows = last_columns(dy, lora.row0, lora.rows);
      op.dense_dx(last_columns(dt_stack, lora.rank0, lora.rank), dy_rows, lora.B, scale,
                  Grad::overwrite);
      if (stack.trains())
        op.dense_dw(lora.dB, dy_rows, last_columns(t, first + lora.rank0, lora.rank), scale,
                    Grad::accumulate);
    }
    if (stack.trains()) op.dense_dw(stack.dA, dt_stack, x, {}, Grad::accumulate);
    if (dx) op.dense_dx(dx, dt_stack, stack.A, {}, Grad::accumulate);
  });
}

}  // namespace fluxlora
