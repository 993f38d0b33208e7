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
  if (layer.start.rank()) f(layer.start, layer.rank() + layer.assistant.rank());
}

Tensor bias_of(const AdaptedLinear& layer, const LoraSlice& lora) {
  return layer.bias ? layer.bias.slice(0, lora.row0, lora.rows) : Tensor{};
}

DoraScale scale_of(const AdaptedLinear& layer, const LoraSlice& lora) {
  return {lora.dora.gain, lora.dora.magnitude, layer.multiplier};
}

bool is_dora(const AdaptedLinear& layer) {
  return layer.rank() && layer.adapters.front().dora;
}

/// DoRA: the norms of this moment's adapters, and the rows of y = x Wᵀ + b scaled by them.
void scale_rows(Ops& op, const Tensor& y, const AdaptedLinear& layer) {
  const Tensor cross =
      layer.cross.slice(0, 0, layer.rank() * layer.out()).reshaped({layer.rank(), layer.out()});
  op.linear(cross, layer.A, layer.weight, {});
  for (const LoraSlice& lora : layer.adapters) {
    const int64_t R = lora.rank;
    const Tensor A = layer.A.slice(0, lora.rank0, R);
    const Tensor gram = layer.gram.slice(0, 0, R * R).reshaped({R, R});
    const Tensor second = layer.second.slice(0, 0, lora.rows * R).reshaped({lora.rows, R});
    op.dense(gram, A, A, {}, Grad::overwrite);
    op.dense(second, lora.B, gram, {}, Grad::overwrite);
    op.dora_gain(
        lora.dora.gain, lora.dora.scaled_B, lora.dora.magnitude,
        {lora.dora.square, last_columns(cross.slice(0, lora.rank0, R), lora.row0, lora.rows),
         second, lora.B, lora.scale});
    op.dora_scale(last_columns(y, lora.row0, lora.rows), bias_of(layer, lora),
                  scale_of(layer, lora));
  }
}

/// Where the input after dropout is kept, behind the ranks; the input itself without.
Tensor adapters_input(const LoraStack& stack, const Tensor& all_t, const Tensor& x,
                      const AdaptedLinear& layer) {
  const bool dropped = stack.drops_input && stack.dropout.rate > 0;
  return dropped ? last_columns(all_t, layer.ranks(), layer.in()) : x;
}

/// Whether the layer's own adapters write every row of its output, and before the frozen product:
/// then that adds itself to what they wrote, which costs a product next to nothing, where they
/// would have to read and write what it wrote. DoRA scales the frozen product by rows.
bool adapters_come_first(const AdaptedLinear& layer) {
  int64_t rows = 0;
  for (const LoraSlice& lora : layer.adapters) rows += lora.rows;
  return rows == layer.out() && !is_dora(layer);
}

/// y (+)= all adapters; `mode` is what the layer's own do to their rows.
void add_adapters(Ops& op, const Tensor& y, const Tensor& all_t, const Tensor& x,
                  const AdaptedLinear& layer, Grad mode) {
  if (is_dora(layer)) scale_rows(op, y, layer);
  for_stacks(layer, [&](const LoraStack& stack, int64_t first) {
    const Tensor t = last_columns(all_t, first, stack.rank());
    const Tensor input = adapters_input(stack, all_t, x, layer);
    if (input.data() != x.data()) {
      op.copy(input, x);
      op.dropout(input, stack.dropout);
    }
    op.dense(t, input, stack.A, {}, Grad::overwrite);  // (B, T, ΣR)
    if (stack.dropout.rate > 0 && !stack.drops_input) op.dropout(t, stack.dropout);
    for (const LoraSlice& lora : stack.adapters)
      op.dense(last_columns(y, lora.row0, lora.rows), last_columns(t, lora.rank0, lora.rank),
               lora.dora ? lora.dora.scaled_B : lora.B, {lora.scale, stack.multiplier},
               first == 0 ? mode : Grad::accumulate);
  });
}

/// What the backward knows of a layer. `mode` is what happens to dx next.
struct InputGradient {
  Tensor dx;  // (B, T, in) or empty
  Grad mode;
  Tensor all_dt;  // (B, T, kept_columns())
};

/// dx (+)= dt A, through the dropout of the input where there is one.
void add_input_gradient(Ops& op, InputGradient& to, const Tensor& dt, const LoraStack& stack,
                        const AdaptedLinear& layer) {
  const Tensor dropped = adapters_input(stack, to.all_dt, to.dx, layer);
  if (dropped.data() == to.dx.data()) {
    op.dense_dx(to.dx, dt, stack.A, {}, to.mode);
  } else {
    op.dense_dx(dropped, dt, stack.A, {}, Grad::overwrite);
    op.dropout(dropped, stack.dropout);
    if (to.mode == Grad::accumulate)
      op.add_scaled(to.dx, dropped, 1);
    else
      op.copy(to.dx, dropped);
  }
  to.mode = Grad::accumulate;
}

}  // namespace

void adapted_linear(Ops& op, const Tensor& y, const Tensor& t, const Tensor& x,
                    const AdaptedLinear& layer) {
  const bool first = adapters_come_first(layer);
  if (first) add_adapters(op, y, t, x, layer, Grad::overwrite);
  op.linear(y, x, layer.weight, layer.bias, first ? Grad::accumulate : Grad::overwrite);
  if (!first) add_adapters(op, y, t, x, layer, Grad::accumulate);
}

void adapted_linear_group(Ops& op, std::span<const AdaptedCall> calls) {
  std::vector<LinearCall> products;
  for (const AdaptedCall& c : calls) {
    const bool first = adapters_come_first(*c.layer);
    if (first) add_adapters(op, c.y, c.t, c.x, *c.layer, Grad::overwrite);
    products.push_back(
        {c.y, c.x, &c.layer->weight, c.layer->bias, first ? Grad::accumulate : Grad::overwrite});
  }
  op.linear_group(products);
  for (const AdaptedCall& c : calls)
    if (!adapters_come_first(*c.layer)) add_adapters(op, c.y, c.t, c.x, *c.layer, Grad::accumulate);
}

void adapted_linear_bwd(Ops& op, const Tensor& dx, Grad mode, const Tensor& dt, const Tensor& dy,
                        const AdaptedCall& forward) {
  const AdaptedLinear& layer = *forward.layer;
  const Tensor& t = forward.t;
  if (is_dora(layer) && (dx || layer.trains()))
    for (const LoraSlice& lora : layer.adapters)
      op.dora_scale_bwd(
          last_columns(dy, lora.row0, lora.rows), lora.dora.d_magnitude,
          lora.dora.d_magnitude ? last_columns(forward.y, lora.row0, lora.rows) : Tensor{},
          bias_of(layer, lora), scale_of(layer, lora));
  InputGradient input{dx, mode, dt};
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
    if (stack.dropout.rate > 0 && !stack.drops_input) op.dropout(dt_stack, stack.dropout);
    if (stack.trains())
      op.dense_dw(stack.dA, dt_stack, adapters_input(stack, t, forward.x, layer), {},
                  Grad::accumulate);
    if (dx) add_input_gradient(op, input, dt_stack, stack, layer);
  });
  // Last, and added to the adapters' part: see adapters_come_first().
  if (dx) op.linear_dx(dx, dy, layer.weight, input.mode);
}

}  // namespace fluxlora
