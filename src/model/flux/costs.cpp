// SPDX-License-Identifier: Apache-2.0
// What each block costs: built and run on paper, at each level.
#include <algorithm>

#include "base/error.h"
#include "model/flux/transformer.h"

namespace fluxlora::flux {

std::vector<PlanBlock> Workspace::costs(PaperDevice& paper) {
  CHECK(options_.training && &model_.device() == &paper, "costs of a workspace on paper");
  Ops& op = paper.ops();
  const Weights& w = model_.weights();
  const Config& c = model_.config();
  const AdaptedLinear& body =
      w.double_blocks.empty() ? w.single_blocks[0].linear1 : w.double_blocks[0].stream[img].qkv;
  const WeightBytes bytes = weight_bytes(c, model_.act(), body.weight.format);
  const Tensor x = scratch_.d_h;  // any tensor of this shape will do on paper
  const Pending before{x, {cond_.silu_vec, cond_.silu_vec}};

  std::vector<PlanBlock> blocks;
  const auto add = [&](auto saved, const auto& block) {
    const size_t n = blocks.size();
    PlanBlock& cost = blocks.emplace_back();
    for (const Part part : kParts) {
      const auto p = static_cast<size_t>(part);
      cost.weights[p] = bytes.parts[p][n];
    }
    for (const Keep keep : kKeepLevels) {
      std::array<Arena, 3> arenas;  // by Lives
      saved.visit(z_, block, {keep, d_modulation_},
                  [&](const std::string&, Tensor& t, std::initializer_list<int64_t> shape,
                      DType dtype, Lives lives) {
                    const bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
                    t = empty ? Tensor{}
                              : arenas[static_cast<size_t>(lives)].take("", dtype, shape);
                  });
      PlanBlock::Level level{arenas[0].used(), {arenas[1].used(), arenas[2].used()}, 0};
      paper.take_total();
      flux::forward(op, z_, block, x, before, cond_, saved);
      cost.forward = paper.take_total();
      remake(op, z_, block, cond_, saved, keep);
      level.remake = paper.take_total();
      flux::backward(op, z_, block, before, cond_, saved,
                     {dx_, d_mod(n), n ? d_gate(n - 1) : std::array<Tensor, 2>{}, d_silu_vec_},
                     scratch_);
      cost.backward = paper.take_total();
      cost.levels.push_back(level);
    }
  };
  for (const DoubleBlock& block : w.double_blocks) add(DoubleSaved{}, block);
  for (const SingleBlock& block : w.single_blocks) add(SingleSaved{}, block);
  return blocks;
}

}  // namespace fluxlora::flux
