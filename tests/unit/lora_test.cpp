// SPDX-License-Identifier: Apache-2.0
// Which layers an adapter sits on, how it starts, and its file.
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>

#include <gtest/gtest.h>

#include "backend/cpu/cpu_device.h"
#include "base/error.h"
#include "base/philox.h"
#include "export/lora_file.h"
#include "lora/adapter.h"
#include "model/flux/transformer.h"
#include "tensor/compare.h"
#include "unit/expect_error.h"
#include "unit/temporary_folder.h"

namespace fluxlora::lora {
namespace {

int64_t parameters(const std::vector<AdapterSpec>& specs) {
  int64_t count = 0;
  for (const AdapterSpec& s : specs) count += s.rank * (s.in + s.rows);
  return count;
}

// The counts are those of the peers' own module lists on FLUX.1-dev.
TEST(Targets, NamedSetsHaveThePeersCounts) {
  const flux::Config dev;
  const auto select = [&](const std::string& name) {
    return select_targets(dev, {.targets = {name}});
  };
  EXPECT_EQ(select("default").size(), 418u);
  EXPECT_EQ(select("kohya").size(), 304u);
  EXPECT_EQ(select("ai-toolkit").size(), 494u);
  EXPECT_EQ(select("diffusers").size(), 342u);
  EXPECT_NEAR(static_cast<double>(parameters(select("default"))) / 1e6, 65.4, 0.05);
  EXPECT_NEAR(static_cast<double>(parameters(select("kohya"))) / 1e6, 76.6, 0.05);
  EXPECT_NEAR(static_cast<double>(parameters(select("diffusers"))) / 1e6, 44.8, 0.05);
}

TEST(Targets, PatternsNameModulesOrFusedLayers) {
  const flux::Config dev;
  const auto count = [&](std::vector<std::string> targets) {
    return select_targets(dev, {.targets = std::move(targets)}).size();
  };
  EXPECT_EQ(count({"attn.to_q"}), 57u);
  EXPECT_EQ(count({"single_blocks.*.linear2"}), 38u);
  EXPECT_EQ(count({"transformer_blocks.0.*"}), 14u);
  EXPECT_EQ(count({"double_blocks.3.img_attn.qkv"}), 1u);
  EXPECT_EQ(count({"x_embedder", "img_in"}), 1u);
  EXPECT_EQ(count({"default", "attn.to_q"}), 418u);
}

TEST(Targets, RangesOfBlocksAndExceptions) {
  const flux::Config dev;
  const auto count = [&](std::vector<std::string> targets, std::vector<std::string> exclude) {
    return select_targets(dev, {.targets = std::move(targets), .exclude = std::move(exclude)})
        .size();
  };
  EXPECT_EQ(count({"transformer_blocks.{3-5}.attn.to_q"}, {}), 3u);
  EXPECT_EQ(count({"single_transformer_blocks.{0-99}.attn.to_q"}, {}), 38u);
  EXPECT_EQ(count({"default"}, {"attn.to_q"}), 418u - 57u);
  EXPECT_EQ(count({"default"}, {"single_blocks.{7-12}.*", "transformer_blocks.{0-18}.*"}),
            5u * (38u - 6u))
      << "BFL's names too";
  EXPECT_EQ(count({"kohya"}, {"*mod*.lin"}), 304u - 2u * 19u - 38u);
  EXPECT_ERROR(count({"kohya"}, {"attn.to_q"}), bad_input, "lora.exclude", "attn.to_q");
  EXPECT_ERROR(count({"attn.to_q"}, {"*"}), bad_input, "lora.exclude", "leaves no layer");
  EXPECT_ERROR(count({"attn.{5-3}.to_q"}, {}), bad_input, "lora.targets", "fits no layer");
}

TEST(Targets, RanksByLayerAndRsLora) {
  const flux::Config dev;
  Options options{.rank = 16, .alpha = 8, .ranks = {"attn.* = 4", "single_blocks.* = 64"}};
  const auto factors = [&] {
    std::map<int64_t, double> seen;
    for (const AdapterSpec& s : select_targets(dev, options)) seen[s.rank] = s.scale();
    return seen;
  };
  EXPECT_EQ(factors(), (std::map<int64_t, double>{{4, 2}, {16, 0.5}, {64, 0.125}}));
  options.rslora = true;  // PEFT: alpha / sqrt(r), each by its own rank
  EXPECT_EQ(factors(), (std::map<int64_t, double>{{4, 4}, {16, 2}, {64, 1}}));
  for (const char* wrong : {"attn.to_q", "= 4", "attn.to_q = 0", "attn.to_q = 2.5", "to_z = 4"}) {
    options.ranks = {wrong};
    EXPECT_ERROR(select_targets(dev, options), bad_input, "lora.ranks", "");
  }
}

TEST(Targets, NothingFitsNamesTheNearest) {
  try {
    select_targets(flux::Config{}, {.targets = {"defualt"}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    EXPECT_NE(error.hint().find("\"default\""), std::string::npos) << error.hint();
  }
  EXPECT_THROW(select_targets(flux::Config{}, {.targets = {"default", "kohya"}}), Error);
}

class AdapterFile : public ::testing::Test {
 protected:
  std::unique_ptr<Device> device = open_cpu_device();
  flux::Transformer model{
      *device, std::string(FLUXLORA_SOURCE_DIR) + "/assets/tiny-flux/transformer", DType::f32};
  TemporaryFolder folder;  // of this test alone: ctest runs several at once
  std::filesystem::path path = folder / "lora.safetensors";

  /// The model's answer to one fixed input, with whatever adapters are attached.
  HostTensor predict() {
    flux::Workspace workspace(model, model.sizes(1, 4, 2, 2));
    Ops& op = device->ops();
    op.fill(workspace.inputs().img, 0.3);
    op.fill(workspace.inputs().txt, -0.2);
    op.fill(workspace.inputs().pooled, 0.1);
    op.fill(workspace.inputs().t, 0.5);
    op.fill(workspace.inputs().guidance, 1);
    workspace.forward();
    HostTensor result(DType::f32, {1, 4, model.config().in_channels});
    op.copy(result.view, workspace.prediction());
    return result;
  }

  /// Fills every B with random numbers.
  void randomise_b(AdapterSet& set) {
    for (const Segment& segment : set.segments()) {
      if (segment.role == Role::a) continue;
      HostTensor m(DType::f32, {segment.rows, segment.columns});
      Philox random(9, Draw::init, static_cast<uint32_t>(segment.spec));
      for (int64_t i = 0; i < m.view.size(); ++i)
        m.view.as<float>()[i] = static_cast<float>(0.1 * random.normal());
      set.upload(segment, m.view);
    }
  }
};

TEST_F(AdapterFile, InitIsKaimingAndBIsZero) {
  AdapterSet set(*device, model.weights(), select_targets(model.config(), {}), DType::f32, true);
  set.initialise(3, "kaiming");
  for (const Segment& segment : set.segments()) {
    const HostTensor m = set.download(segment);
    double largest = 0, sum = 0;
    for (int64_t i = 0; i < m.view.size(); ++i) {
      largest = std::max(largest, std::fabs(double{m.view.as<float>()[i]}));
      sum += m.view.as<float>()[i];
    }
    if (segment.role == Role::b) {
      EXPECT_EQ(largest, 0);
      continue;
    }
    const double bound = 1 / std::sqrt(static_cast<double>(segment.columns));
    EXPECT_LE(largest, bound);
    EXPECT_GT(largest, 0.97 * bound);
    EXPECT_LT(std::fabs(sum) / static_cast<double>(m.view.size()), 0.1 * bound);
  }
}

TEST_F(AdapterFile, WrittenAndReadIsTheSameChange) {
  const Options options{.rank = 4, .alpha = 6, .targets = {"kohya", "final_layer.*"}};
  const HostTensor base = predict();
  HostTensor fused;
  {
    AdapterSet set(*device, model.weights(), select_targets(model.config(), options), DType::f32,
                   true);
    set.initialise(3, "gaussian");
    randomise_b(set);
    exporting::write_adapters(path, set, model.config(), {}, {{"trigger", "zorbot"}});
    fused = predict();
  }
  EXPECT_GT(relative_error(fused.view, base.view), 1e-2);
  const exporting::LoraFile file = exporting::read_lora(path, model.config());
  EXPECT_EQ(file.metadata.at("trigger"), "zorbot");
  AdapterSet again(*device, model.weights(), file.specs, DType::f32, false);
  exporting::upload(again, 0, file);
  // Only the order of sums differs: alpha/rank is in B instead of in the product.
  EXPECT_LT(relative_error(predict().view, fused.view), 1e-5);
}

/// Every layer of CLIP, in the file under the names of diffusers; PEFT's gradients and diffusers'
/// pictures are held against in tests/golden and tests/interop.
TEST_F(AdapterFile, ClipsAdaptersAreWrittenAndRead) {
  ClipText clip(*device, std::string(FLUXLORA_SOURCE_DIR) + "/assets/tiny-flux/text_encoder",
                DType::f32);
  std::vector<int32_t> ids(static_cast<size_t>(clip.config().positions), 5);
  ids.back() = static_cast<int32_t>(clip.config().eos_id);
  const auto pooled = [&] {
    clip.prepare(1, false);
    HostTensor host(DType::f32, {clip.config().width});
    device->download(host.view.data(), clip.forward(ids));
    return host;
  };
  const HostTensor base = pooled();
  const Options options{.rank = 4, .alpha = 6, .text_encoder = true};
  const auto specs = select_targets(model.config(), options, clip.config());
  EXPECT_TRUE(has_clip(specs));
  HostTensor adapted;
  {
    AdapterSet set(*device, {model.weights(), &clip}, specs, DType::f32, true);
    set.initialise(3, "kaiming");
    EXPECT_EQ(relative_error(pooled().view, base.view), 0);
    randomise_b(set);
    exporting::write_adapters(path, set, model.config(), {}, {});
    adapted = pooled();
    set.set_multiplier(0);
    EXPECT_EQ(relative_error(pooled().view, base.view), 0);
  }
  EXPECT_GT(relative_error(adapted.view, base.view), 1e-2);
  EXPECT_THROW(exporting::read_lora(path, model.config()), Error);
  const exporting::LoraFile file = exporting::read_lora(path, model.config(), clip.config());
  EXPECT_EQ(file.specs.size(), specs.size());
  AdapterSet again(*device, {model.weights(), &clip}, file.specs, DType::f32, false);
  exporting::upload(again, 0, file);
  EXPECT_LT(relative_error(pooled().view, adapted.view), 1e-5);
  ClipConfig shallow = clip.config(), narrow = clip.config();
  --shallow.layers;
  narrow.hidden /= 2;
  EXPECT_THROW(exporting::read_lora(path, model.config(), shallow), Error);
  EXPECT_THROW(exporting::read_lora(path, model.config(), narrow), Error);
}

TEST_F(AdapterFile, TwoFilesAddUp) {
  const auto specs = select_targets(model.config(), {.rank = 2, .alpha = 2});
  HostTensor twice;
  {
    AdapterSet set(*device, model.weights(), specs, DType::f32, false);
    set.initialise(3, "kaiming");
    randomise_b(set);
    exporting::write_adapters(path, set, model.config(), {}, {});
    set.set_multiplier(2);
    twice = predict();
  }
  const exporting::LoraFile file = exporting::read_lora(path, model.config());
  std::vector<AdapterSpec> both = file.specs;
  both.insert(both.end(), file.specs.begin(), file.specs.end());
  AdapterSet set(*device, model.weights(), both, DType::f32, false);
  exporting::upload(set, 0, file);
  exporting::upload(set, file.specs.size(), file);
  EXPECT_LT(relative_error(predict().view, twice.view), 1e-5);
}

TEST_F(AdapterFile, KeysThatFitNothingAreNamed) {
  HostTensor a(DType::f32, {2, 160}), b(DType::f32, {160, 2}), bad(DType::f32, {2, 161});
  for (const HostTensor* t : {&a, &b, &bad}) device->ops().fill(t->view, 1);
  const std::string q = "transformer.transformer_blocks.0.attn.to_q";
  const auto message = [&](std::vector<NamedTensor> tensors) -> std::string {
    write_safetensors(path, std::move(tensors), {});
    try {
      exporting::read_lora(path, model.config());
    } catch (const Error& error) {
      return error.message();
    }
    return "";
  };
  const NamedTensor good_a{q + ".lora_A.weight", a.view}, good_b{q + ".lora_B.weight", b.view};
  EXPECT_EQ(message({good_a, good_b}), "");
  EXPECT_NE(message({good_a}).find(q + ".lora_A.weight"), std::string::npos);
  EXPECT_NE(message({good_b}).find(q + ".lora_B.weight"), std::string::npos);
  EXPECT_NE(message({good_a, good_b, {"transformer.nowhere.lora_A.weight", a.view}})
                .find("transformer.nowhere.lora_A.weight"),
            std::string::npos);
  EXPECT_NE(message({{q + ".lora_A.weight", bad.view}, good_b})
                .find(q + "\" changes a weight of (160, 161)"),
            std::string::npos);
  EXPECT_NE(message({}).find("no LoRA"), std::string::npos);
}

}  // namespace
}  // namespace fluxlora::lora
