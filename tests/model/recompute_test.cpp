// SPDX-License-Identifier: Apache-2.0
// A block's stages can be run again from what is kept: whatever a plan throws away, the same bits
// come back, because recompute is the same forward with a stage mask.
#include <cstring>
#include <memory>

#include <gtest/gtest.h>

#include "backend/cpu/cpu_device.h"
#include "base/philox.h"
#include "golden.h"

namespace fluxlora {
namespace {

using flux::Stage;

struct Kept {
  std::string name;
  Tensor view;
  Stage stage;
  std::vector<char> bytes;
};

class Recompute : public ::testing::Test {
 protected:
  std::unique_ptr<Device> device = open_cpu_device();
  flux::Transformer model{*device, golden::source("assets/tiny-flux/transformer"), DType::f32};
  flux::Sizes z = model.sizes(2, 5, 3, 4);
  std::vector<HostTensor> memory;

  Tensor random(std::initializer_list<int64_t> shape) {
    memory.emplace_back(z.act, shape);
    Philox numbers(3, Draw::noise, static_cast<uint32_t>(memory.size()));
    for (int64_t i = 0; i < memory.back().view.size(); ++i)
      memory.back().view.as<float>()[i] = static_cast<float>(numbers.normal());
    return memory.back().view;
  }

  /// Binds a block's saved tensors, runs it whole, then for every set of stages destroys what they
  /// make and runs just them.
  template <typename Block, typename Saved>
  void check(const Block& block, Saved& saved) {
    std::vector<Kept> kept;
    saved.visit(z, block,
                [&](const std::string& name, Tensor& t, std::initializer_list<int64_t> shape,
                    DType dtype, Stage stage) {
                  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return;
                  memory.emplace_back(dtype, shape);
                  t = memory.back().view;
                  kept.push_back({name, t, stage, {}});
                });
    const Tensor x = random({z.B, z.S(), z.D});
    const flux::Pending before{random({z.B, z.S(), z.D}), {random({z.B, z.D}), random({z.B, z.D})}};
    const flux::Conditioning c{random({z.B, z.D}), random({z.S(), z.K / 2, 2})};
    Ops& op = device->ops();
    flux::forward(op, z, block, x, before, c, saved);
    for (Kept& k : kept) {
      const char* data = static_cast<const char*>(k.view.data());
      k.bytes.assign(data, data + k.view.bytes());
    }
    for (unsigned mask = 1; mask <= static_cast<unsigned>(Stage::all); ++mask) {
      const auto todo = static_cast<Stage>(mask);
      for (const Kept& k : kept)
        if (has(todo, k.stage))
          std::memset(k.view.data(), 0xFF, static_cast<size_t>(k.view.bytes()));
      flux::forward(op, z, block, x, before, c, saved, todo);
      for (const Kept& k : kept)
        EXPECT_EQ(std::memcmp(k.view.data(), k.bytes.data(), k.bytes.size()), 0)
            << k.name << " after stages " << mask;
    }
  }
};

TEST_F(Recompute, DoubleBlock) {
  lora::AdapterSet set(*device, model.weights(), lora::select_targets(model.config(), {}),
                       DType::f32, false);
  set.initialise(1, "kaiming");
  flux::DoubleSaved saved;
  check(model.weights().double_blocks[0], saved);
}

TEST_F(Recompute, SingleBlock) {
  lora::AdapterSet set(*device, model.weights(), lora::select_targets(model.config(), {}),
                       DType::f32, false);
  set.initialise(1, "kaiming");
  flux::SingleSaved saved;
  check(model.weights().single_blocks[0], saved);
}

}  // namespace
}  // namespace fluxlora
