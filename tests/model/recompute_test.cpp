// SPDX-License-Identifier: Apache-2.0
// Whatever a plan throws away, the same bits come back, because recompute is the same forward with
// a stage mask.
#include <cstring>
#include <memory>

#include <gtest/gtest.h>

#include "backend/cpu/cpu_device.h"
#include "base/philox.h"
#include "golden.h"

namespace fluxlora {
namespace {

using flux::Keep;
using flux::Lives;

struct Saved {
  std::string name;
  Tensor view;
  bool remade;
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

  /// For every level: binds a block's saved tensors, runs it whole, destroys what does not live on
  /// and makes it again.
  template <typename Block, typename SavedTensors>
  void check(const Block& block, SavedTensors& saved) {
    const Tensor x = random({z.B, z.S(), z.D});
    const flux::Pending before{random({z.B, z.S(), z.D}), {random({z.B, z.D}), random({z.B, z.D})}};
    const flux::Conditioning c{random({z.B, z.D}), random({z.S(), z.K / 2, 2})};
    Ops& op = device->ops();
    size_t least = 1000;
    for (const Keep level : flux::kKeepLevels) {
      std::vector<Saved> list;
      saved.visit(z, block, {level, /*outputs=*/true},
                  [&](const std::string& name, Tensor& t, std::initializer_list<int64_t> shape,
                      DType dtype, Lives lives) {
                    if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return;
                    memory.emplace_back(dtype, shape);
                    t = memory.back().view;
                    list.push_back({name, t, lives != Lives::on, {}});
                  });
      flux::forward(op, z, block, x, before, c, saved);
      size_t remade = 0;
      for (Saved& k : list) {
        const char* data = static_cast<const char*>(k.view.data());
        k.bytes.assign(data, data + k.view.bytes());
        if (!k.remade) continue;
        std::memset(k.view.data(), 0xFF, k.bytes.size());
        ++remade;
      }
      flux::remake(op, z, block, c, saved, level);
      for (const Saved& k : list)
        EXPECT_EQ(std::memcmp(k.view.data(), k.bytes.data(), k.bytes.size()), 0)
            << k.name << " at level " << static_cast<int>(level);
      EXPECT_LT(remade, least) << "each level keeps more";
      least = remade;
    }
    EXPECT_EQ(least, 0u);
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

/// The prediction and all gradients of one step with these levels.
std::vector<char> step_bytes(flux::Transformer& model, const lora::AdapterSet& set,
                             const std::vector<Keep>& keep) {
  Device& device = model.device();
  Ops& op = device.ops();
  flux::Workspace work(model, model.sizes(2, 5, 4, 4), {.training = true, .keep = keep});
  Philox numbers(7, Draw::noise);
  const flux::Inputs& in = work.inputs();
  for (const Tensor& t : {in.img, in.txt, in.pooled, work.d_prediction()})
    for (int64_t i = 0; i < t.size(); ++i) t.as<float>()[i] = static_cast<float>(numbers.normal());
  op.fill(in.t, 0.4);
  op.fill(in.guidance, 1);
  op.fill(set.grads(), 0);
  work.forward();
  work.backward();
  std::vector<char> bytes;
  for (const Tensor& t : {work.prediction(), set.grads()}) {
    const char* data = static_cast<const char*>(t.data());
    bytes.insert(bytes.end(), data, data + t.bytes());
  }
  return bytes;
}

/// 14 plans: each level for all blocks, levels in turn from each start, and random ones.
std::vector<std::vector<Keep>> plans(size_t blocks) {
  std::vector<std::vector<Keep>> all;
  for (const Keep level : flux::kKeepLevels) all.emplace_back(blocks, level);
  for (size_t first = 0; first < 4; ++first) {
    auto& plan = all.emplace_back();
    for (size_t n = 0; n < blocks; ++n) plan.push_back(flux::kKeepLevels[(first + n) % 4]);
  }
  for (uint32_t seed = 0; seed < 6; ++seed) {
    Philox numbers(seed, Draw::order);
    auto& plan = all.emplace_back();
    for (size_t n = 0; n < blocks; ++n) plan.push_back(flux::kKeepLevels[numbers.below(4)]);
  }
  return all;
}

struct PlanCase {
  lora::Options options = {};
  WeightFormat format = WeightFormat::f32;
};

class AnyPlan : public ::testing::TestWithParam<PlanCase> {};

TEST_P(AnyPlan, GivesTheSameGradientsBitForBit) {
  const auto device = open_cpu_device();
  const lora::Options& options = GetParam().options;
  flux::Transformer model(*device, golden::source("assets/tiny-flux/transformer"), DType::f32,
                          GetParam().format);
  lora::AdapterSet set(*device, model.weights(), lora::select_targets(model.config(), options),
                       DType::f32, true);
  set.measure_rows(model.loaded());
  set.initialise(1, "kaiming");
  if (options.dropout > 0) set.use_dropout(options);
  set.draw_dropout(1, 2, 3);
  Philox numbers(5, Draw::init);
  for (int64_t i = 0; i < set.size(); ++i)
    set.params().as<float>()[i] += static_cast<float>(0.05 * numbers.normal());
  const auto blocks = static_cast<size_t>(model.config().depth + model.config().depth_single);
  const std::vector<char> expected = step_bytes(model, set, {});
  for (const auto& plan : plans(blocks)) EXPECT_TRUE(step_bytes(model, set, plan) == expected);
}

// kohya's layers have modulation among them, whose gradient needs more than the others do.
INSTANTIATE_TEST_SUITE_P(
    Targets, AnyPlan,
    ::testing::Values(PlanCase{}, PlanCase{{.targets = {"kohya"}}}, PlanCase{{.dropout = 0.2}},
                      PlanCase{{.type = "dora", .dropout = 0.2, .dropout_of = "input"}},
                      PlanCase{.format = WeightFormat::int8},
                      PlanCase{{.targets = {"kohya"}}, WeightFormat::nf4}));

/// All gradients of two steps of a model whose weights visit, with a forward for sampling between.
std::vector<char> bytes_with(const flux::Residence& residence, WeightFormat format,
                             const std::string& targets) {
  const auto device = open_cpu_device();
  flux::Transformer model(*device, golden::source("assets/tiny-flux/transformer"), DType::f32,
                          format, residence);
  lora::AdapterSet set(*device, model.weights(),
                       lora::select_targets(model.config(), {.targets = {targets}}), DType::f32,
                       true);
  Philox numbers(5, Draw::init);
  for (int64_t i = 0; i < set.size(); ++i)
    set.params().as<float>()[i] = static_cast<float>(0.05 * numbers.normal());
  std::vector<char> all = step_bytes(model, set, {});
  flux::Workspace sampling(model, model.sizes(1, 5, 2, 2));
  const flux::Inputs& in = sampling.inputs();
  for (const Tensor& t : {in.img, in.txt, in.pooled, in.t, in.guidance}) device->ops().fill(t, 0.3);
  sampling.forward();
  const auto* picture = static_cast<const char*>(sampling.prediction().data());
  all.insert(all.end(), picture, picture + sampling.prediction().bytes());
  const auto blocks = static_cast<size_t>(model.config().depth + model.config().depth_single);
  const std::vector<char> again =
      step_bytes(model, set, std::vector<Keep>(blocks, Keep::attention));
  all.insert(all.end(), again.begin(), again.end());
  return all;
}

TEST(VisitingWeights, AreTheSameWeights) {
  const flux::Config config = flux::read_config(golden::source("assets/tiny-flux/transformer"));
  const auto blocks = static_cast<size_t>(config.depth + config.depth_single);
  std::vector<bool> all(blocks, true), none(blocks, false), some(blocks), last(blocks, false);
  for (size_t n = 0; n < blocks; ++n) some[n] = n % 3 != 1;
  last.back() = true;
  for (const auto& [format, targets] : {std::pair{WeightFormat::f32, "default"},
                                        {WeightFormat::fp8, "kohya"},
                                        {WeightFormat::int8, "default"},
                                        {WeightFormat::nf4, "kohya"}}) {
    const std::vector<char> expected = bytes_with({}, format, targets);
    for (const flux::Residence& residence : {flux::Residence{{all, all}},
                                             {{all, none}},
                                             {{none, all}},
                                             {{some, last}},
                                             {{last, some}}})
      EXPECT_TRUE(bytes_with(residence, format, targets) == expected);
  }
}

TEST(VisitingWeights, TakeTwoPlacesOfTheDevice) {
  const auto device = open_cpu_device();
  const auto path = golden::source("assets/tiny-flux/transformer");
  const flux::Config config = flux::read_config(path);
  const auto blocks = static_cast<size_t>(config.depth + config.depth_single);
  const flux::WeightBytes bytes = flux::weight_bytes(config, DType::f32, WeightFormat::fp8);
  flux::LoadedWeights stay(*device, path, config, DType::f32, WeightFormat::fp8);
  EXPECT_EQ(stay.device_bytes(), bytes.total());
  EXPECT_EQ(stay.host_bytes(), 0);
  flux::LoadedWeights visit(*device, path, config, DType::f32, WeightFormat::fp8,
                            {{std::vector<bool>(blocks, true), std::vector<bool>(blocks, true)}});
  EXPECT_EQ(visit.host_bytes(), bytes.total() - bytes.rest);
  int64_t places = 0;
  for (const auto& part : bytes.parts)
    for (size_t first : {0u, 1u}) {
      int64_t largest = 0;
      for (size_t n = first; n < blocks; n += 2) largest = std::max(largest, part[n]);
      places += largest;
    }
  EXPECT_EQ(visit.device_bytes(), bytes.rest + places);
}

TEST(KeepLevels, TakeLessMemoryTheLessTheyKeep) {
  const auto device = open_cpu_device();
  flux::Transformer model(*device, golden::source("assets/tiny-flux/transformer"), DType::f32);
  const auto blocks = static_cast<size_t>(model.config().depth + model.config().depth_single);
  int64_t last = 0;
  for (const Keep level : flux::kKeepLevels) {
    const flux::Workspace work(model, model.sizes(2, 64, 8, 8),
                               {.training = true, .keep = std::vector<Keep>(blocks, level)});
    EXPECT_GT(work.bytes(), last);
    last = work.bytes();
  }
}

}  // namespace
}  // namespace fluxlora
