// SPDX-License-Identifier: Apache-2.0
// The loop over the blocks, both directions.   Dims: docs/notation.md
#include "model/flux/transformer.h"

#include <algorithm>

#include "base/error.h"

namespace fluxlora::flux {

Transformer::Transformer(Device& device, const std::filesystem::path& path, DType act,
                         WeightFormat format, const Residence& residence)
    : device_(device),
      config_(read_config(path)),
      act_(act),
      loaded_(device, path, config_, act, format, residence) {}

Transformer::Transformer(Device& device, const Config& config, DType act, WeightFormat format,
                         const Residence& residence)
    : device_(device),
      config_(config),
      act_(act),
      loaded_(device, config, act, format, residence) {}

Sizes Transformer::sizes(int64_t B, int64_t M, int64_t rows, int64_t columns) const {
  return {B, M, rows, columns, config_.D(), config_.H, config_.K, config_.F(), act_};
}

Workspace::Workspace(Transformer& model, const Sizes& sizes, const WorkspaceOptions& options)
    : model_(model), z_(sizes), options_(options) {
  Weights& w = model.weights();
  if (options_.training) {
    d_vec_ = options_.pooled_grad;
    for (const MlpEmbedder* e : {&w.time_in, &w.guidance_in, &w.vector_in})
      d_vec_ |= e->in_layer.trains() || e->out_layer.trains();
    d_modulation_ = d_vec_ || w.final_layer.modulation.trains();
    for (const DoubleBlock& b : w.double_blocks)
      d_modulation_ |= b.stream[txt].mod.trains() || b.stream[img].mod.trains();
    for (const SingleBlock& b : w.single_blocks) d_modulation_ |= b.modulation.trains();
    visit_linears(w, [&](const std::string&, const AdaptedLinear& l) {
      dora_ |= l.trains() && l.adapters.front().dora;
    });
  }
  const auto slots = [&](size_t blocks) {
    return options_.training ? blocks : std::min<size_t>(blocks, 2);
  };
  double_saved_.resize(slots(w.double_blocks.size()));
  single_saved_.resize(slots(w.single_blocks.size()));

  CHECK(options.keep.empty() ||
            options.keep.size() == w.double_blocks.size() + w.single_blocks.size(),
        "Workspace: a level for each block");
  Arena on, to_next, in_block;
  describe(on, to_next, in_block);
  arena_ = Arena(model.device(), on.peak());
  to_next_ = Arena(model.device(), to_next.peak());
  in_block_ = Arena(model.device(), in_block.peak());
  describe(arena_, to_next_, in_block_);

  HostTensor table(z_.stat(), {z_.S(), z_.K / 2, 2});
  fill_rotary_table(table.view, z_, model.config());
  model.device().upload(cond_.pe, table.view.data());
  cond_.silu_vec = embed_.silu_vec;
}

std::map<std::string, int64_t> Workspace::owners() const {
  std::map<std::string, int64_t> all = arena_.owners();
  all["activations"] += to_next_.peak() + in_block_.peak();
  return all;
}

Kept Workspace::kept(size_t block) const {
  if (!options_.training) return {Keep::input, /*outputs=*/false};
  return {options_.keep.empty() ? Keep::all : options_.keep[block], d_modulation_ || dora_};
}

void Workspace::describe(Arena& arena, Arena& to_next, Arena& in_block) {
  const Config& config = model_.config();
  Weights& w = model_.weights();
  const auto take = [&](const std::string& owner) {
    return [&, owner](const std::string&, Tensor& t, std::initializer_list<int64_t> shape,
                      DType dtype, Lives lives = Lives::on) {
      Arena& from = lives == Lives::on ? arena : lives == Lives::to_next ? to_next : in_block;
      const bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
      t = empty ? Tensor{} : from.take(owner, dtype, shape);
    };
  };
  const auto one = [&](Tensor& t, std::initializer_list<int64_t> shape, DType dtype) {
    t = arena.take("inputs and outputs", dtype, shape);
  };
  one(inputs_.img, {z_.B, z_.N(), config.in_channels}, z_.act);
  one(inputs_.txt, {z_.B, z_.M, config.context_in}, z_.act);
  one(inputs_.pooled, {z_.B, config.vec_in}, z_.act);
  one(inputs_.t, {z_.B}, z_.stat());
  one(inputs_.guidance, {z_.B}, z_.stat());
  one(prediction_, {z_.B, z_.N(), config.in_channels}, z_.act);
  one(cond_.pe, {z_.S(), z_.K / 2, 2}, z_.stat());

  embed_.visit(z_, w, take("activations"));
  const auto block = [&](auto& saved, const auto& weights, size_t n) {
    to_next.rewind(0);
    in_block.rewind(0);
    saved.visit(z_, weights, kept(n), take("activations"));
  };
  for (size_t i = 0; i < double_saved_.size(); ++i) block(double_saved_[i], w.double_blocks[i], i);
  for (size_t i = 0; i < single_saved_.size(); ++i)
    block(single_saved_[i], w.single_blocks[i], double_saved_.size() + i);
  final_saved_.visit(z_, w.final_layer, take("activations"));
  if (!options_.training) return;

  int64_t widest = 0;
  visit_linears(w, [&](const std::string&, AdaptedLinear& l) {
    widest = std::max(widest, l.kept_columns());
  });
  scratch_.visit(z_, widest, d_modulation_, take("gradients of activations"));
  const auto grad = take("gradients of activations");
  one(d_prediction_, {z_.B, z_.N(), config.in_channels}, z_.act);
  grad("dx", dx_, {z_.B, z_.S(), z_.D}, z_.act);
  if (d_vec_) {
    grad("d_silu_vec", d_silu_vec_, {z_.B, z_.D}, z_.act);
    grad("d_vec", embed_grads_.d_vec, {z_.B, z_.D}, z_.act);
    grad("d_mlp", embed_grads_.d_mlp, {z_.B, z_.D}, z_.act);
  }
  if (options_.pooled_grad) one(d_pooled_, {z_.B, config.vec_in}, z_.act);
}

void Workspace::lease(size_t n, Walk walk) {
  model_.loaded().lease(Part::body, n);
  // The backward reads modulation for the gradient of the conditioning alone.
  if (!walk.down || d_vec_) model_.loaded().lease(Part::modulation, n);
}

void Workspace::release(size_t n, Walk walk) {
  model_.loaded().release(Part::body, n, walk);
  if (!walk.down || d_vec_)
    model_.loaded().release(Part::modulation, n, {walk.down, walk.turns && d_vec_});
}

void Workspace::forward() {
  Ops& op = model_.device().ops();
  const Weights& w = model_.weights();
  const Walk up{.down = false, .turns = options_.training};
  flux::forward(op, z_, w, inputs_, embed_);
  Tensor x = embed_.x;  // (B, S, D)
  Pending before;
  const auto after_block = [&](const std::string& kind, size_t i) {
    if (observer_) observer_(kind + std::to_string(i), x, before);
  };
  if (observer_) observer_("embedders", x, before);
  for (size_t i = 0; i < w.double_blocks.size(); ++i) {
    DoubleSaved& s = double_saved_[slot(i)];
    lease(i, up);
    flux::forward(op, z_, w.double_blocks[i], x, before, cond_, s);
    release(i, up);
    x = s.x2;
    before = pending(s);
    after_block("double_blocks.", i);
  }
  for (size_t i = 0; i < w.single_blocks.size(); ++i) {
    SingleSaved& s = single_saved_[slot(i)];
    lease(w.double_blocks.size() + i, up);
    flux::forward(op, z_, w.single_blocks[i], x, before, cond_, s);
    release(w.double_blocks.size() + i, up);
    x = s.x1;
    before = pending(s);
    after_block("single_blocks.", i);
  }
  flux::forward(op, z_, w.final_layer, prediction_, x, before, cond_, final_saved_);
}

std::array<Tensor, 2> Workspace::d_mod(size_t n) const {
  if (!d_modulation_) return {};
  const int64_t first = static_cast<int64_t>(n % 2) * 2;
  return {scratch_.d_mod.item(first), scratch_.d_mod.item(first + 1)};
}

std::array<Tensor, 2> Workspace::d_gate(size_t n) const {
  std::array<Tensor, 2> gates = d_mod(n);
  if (!d_modulation_) return gates;
  if (n < double_saved_.size()) {
    for (Tensor& gate : gates) gate = gate.columns(5 * z_.D, z_.D);
  } else {
    gates.fill(gates[0].columns(2 * z_.D, z_.D));
  }
  return gates;
}

void Workspace::backward() {
  CHECK(options_.training, "backward of a workspace that does not train");
  Ops& op = model_.device().ops();
  const Weights& w = model_.weights();
  if (d_vec_) op.fill(d_silu_vec_, 0);
  const Walk down{.down = true, .turns = true};
  const size_t doubles = double_saved_.size(), blocks = doubles + single_saved_.size();
  // What block n was given, and where the gradients around it go. Block `blocks` is the final
  // layer.
  const auto before = [&](size_t n) {
    if (n == 0) return Pending{};
    return n <= doubles ? pending(double_saved_[n - 1]) : pending(single_saved_[n - 1 - doubles]);
  };
  const auto grads = [&](size_t n) {
    return BlockGrads{dx_, d_mod(n), n ? d_gate(n - 1) : std::array<Tensor, 2>{}, d_silu_vec_};
  };

  flux::backward(op, z_, w.final_layer, d_prediction_, before(blocks), cond_, final_saved_,
                 grads(blocks), scratch_);
  const auto block = [&](size_t n, const auto& weights, auto& saved) {
    lease(n, down);
    remake(op, z_, weights, cond_, saved, kept(n).level);
    flux::backward(op, z_, weights, before(n), cond_, saved, grads(n), scratch_);
    release(n, down);
  };
  for (size_t n = blocks; n-- > doubles;)
    block(n, w.single_blocks[n - doubles], single_saved_[n - doubles]);
  for (size_t n = doubles; n-- > 0;) block(n, w.double_blocks[n], double_saved_[n]);
  embed_grads_.dx = dx_;
  embed_grads_.d_silu_vec = d_silu_vec_;
  embed_grads_.d_pooled = d_pooled_;
  flux::backward(op, z_, w, inputs_, embed_, embed_grads_, scratch_);
}

}  // namespace fluxlora::flux
