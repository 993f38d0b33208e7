// SPDX-License-Identifier: Apache-2.0
// Plans of FLUX.1-dev at its real size, on paper.
#include "train/memory_plan.h"

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "lora/adapter.h"
#include "model/t5/encoder.h"

namespace fluxlora::train {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

PlanInputs dev(WeightFormat format, int side = 1024) {
  PlanInputs in;
  in.precision = {DType::bf16, format};
  in.options.model.text_tokens = 512;
  in.options.sample.every = 0;
  in.shapes = {{{side, side}, 1}};
  return in;
}

Machine h200(int64_t budget) {
  return {"H200", budget, kDriverContext, 0, find_gpu("H200")->rates};
}

double seconds(const PlanInputs& in, int64_t budget) {
  const MemoryPlan plan = plan_memory(in, h200(budget));
  EXPECT_LE(plan.device_bytes, budget);
  return plan.seconds_per_step.value();
}

TEST(MemoryPlan, FluxDevFitsEveryCardAndIsFasterOnLargerOnes) {
  const PlanInputs in = dev(WeightFormat::fp8);
  double last = 100;
  for (const int64_t gib : {8, 10, 12, 16, 24, 80}) {
    const double now = seconds(in, gib * kGiB);
    EXPECT_LE(now, last) << gib;
    last = now;
  }
}

/// All phases: T5-XXL and the VAE before training, validation and samples between steps.
TEST(MemoryPlan, EightGiBDoForWeightsInFewBits) {
  for (const WeightFormat format : {WeightFormat::fp8, WeightFormat::int8, WeightFormat::nf4}) {
    PlanInputs in = dev(format);
    in.vae_weights = 2 * 83'819'683;
    in.validated = {{1024, 1024}};
    in.options.sample.every = 250;
    in.options.sample.width = in.options.sample.height = 1024;
    Machine machine = h200(8 * kGiB);
    EXPECT_NE(settle_text_precision(in.options, {}, /*on_host=*/false, machine), "");
    EXPECT_EQ(in.options.model.text_precision, "fp8");
    in.text_encoder = T5Encoder::bytes({}, DType::bf16, WeightFormat::fp8, 512);
    const MemoryPlan plan = plan_memory(in, machine);
    EXPECT_LE(plan.device_bytes, machine.budget);
    EXPECT_GT(plan.host_bytes, 0);
  }
}

TEST(MemoryPlan, T5sWeightsGetNarrowerWithTheBudget) {
  for (const auto& [gib, word] :
       {std::pair{24, "auto"}, {12, "auto"}, {8, "fp8"}, {6, "fp8"}, {4, "nf4"}}) {
    RunOptions options;
    options.model.text_tokens = 512;
    settle_text_precision(options, {}, false, h200(gib * kGiB));
    EXPECT_EQ(options.model.text_precision, word) << gib;
  }
  RunOptions given;
  given.model.text_tokens = 512;
  given.model.text_precision = "bf16";
  EXPECT_EQ(settle_text_precision(given, {}, false, h200(4 * kGiB)), "");
  EXPECT_EQ(given.model.text_precision, "bf16");
}

// The floor that products and attention set at these rates: reference figures of the design.
TEST(MemoryPlan, TimesOnPaperLieAboveTheFloor) {
  EXPECT_GT(seconds(dev(WeightFormat::fp8), 80 * kGiB), 0.190);
  EXPECT_LT(seconds(dev(WeightFormat::fp8), 80 * kGiB), 0.40);
  EXPECT_GT(seconds(dev(WeightFormat::bf16), 80 * kGiB), 0.253);
  EXPECT_LT(seconds(dev(WeightFormat::bf16), 80 * kGiB), 0.50);
}

TEST(MemoryPlan, TheWeightsAreThoseOfFluxDev) {
  const MemoryPlan plan = plan_memory(dev(WeightFormat::bf16), h200(80 * kGiB));
  for (const MemoryOwner& o : plan.owners)
    // 11,901,408,320 parameters in bf16; alignment adds next to nothing.
    if (o.name == "transformer weights") {
      EXPECT_NEAR(static_cast<double>(o.bytes), 2 * 11'901'408'320.0, 1e6);
    }
}

TEST(MemoryPlan, OwnersAreWhatTheRealObjectsTake) {
  PlanInputs in = dev(WeightFormat::fp8, 512);
  in.validated = {{512, 512}};
  const MemoryPlan plan = plan_memory(in, h200(10 * kGiB));
  PaperDevice paper(assumed_rates());
  flux::Transformer model(paper, in.config, DType::bf16, WeightFormat::fp8, plan.residence);
  const int64_t weights = paper.bytes();
  const lora::AdapterSet adapters(
      paper, model.weights(), lora::select_targets(in.config, in.options.lora), DType::bf16, true);
  const int64_t trained = paper.bytes() - weights;
  const flux::Workspace ws(model, model.sizes(1, 512, 32, 32),
                           {.training = true, .keep = plan.keep});
  const int64_t activations = paper.bytes() - weights - trained;
  const flux::Workspace validation(model, model.sizes(1, 512, 32, 32));
  int64_t found[4] = {0, 0, 0, 0};
  for (const MemoryOwner& o : plan.owners) {
    if (o.name == "transformer weights") found[0] += o.bytes;
    if (o.name == "adapters" || o.name == "gradients of adapters") found[1] += o.bytes;
    if (o.name == "activations") found[2] += o.bytes;
    if (o.name == "validation") found[3] += o.bytes;
  }
  EXPECT_EQ(found[0], weights);
  EXPECT_NEAR(static_cast<double>(found[1]), static_cast<double>(trained), 64);
  EXPECT_EQ(found[2], activations);
  EXPECT_EQ(found[3], validation.bytes());
  EXPECT_EQ(plan.host_bytes, paper.pinned_bytes());
}

TEST(MemoryPlan, ClipIsAnOwnerWhenItIsAdapted) {
  PlanInputs in = dev(WeightFormat::bf16);
  const int64_t without = plan_memory(in, h200(80 * kGiB)).device_bytes;
  in.options.lora.text_encoder = true;
  const MemoryPlan plan = plan_memory(in, h200(80 * kGiB));
  const auto clip = std::find_if(plan.owners.begin(), plan.owners.end(),
                                 [](const MemoryOwner& o) { return o.name == "clip"; });
  ASSERT_NE(clip, plan.owners.end());
  // 123,060,480 parameters in bf16 (flux-facts 5.1), and a text's activations.
  EXPECT_GT(clip->bytes, 2 * 123'060'480);
  EXPECT_LT(clip->bytes, 2 * 123'060'480 + (int64_t{64} << 20));
  // Rank 16 of 12 layers: 16 (8 * 768 + 2 * (768 + 3072)) numbers each, f32, with gradient and two
  // moments, and a bf16 copy.
  const int64_t numbers = 12 * 16 * (8 * 768 + 2 * (768 + 3072));
  EXPECT_GT(plan.device_bytes - without, clip->bytes + numbers * (4 * 4 + 2));
}

TEST(MemoryPlan, WhatDoesNotFitIsRefusedWithTheLeastThatWould) {
  try {
    plan_memory(dev(WeightFormat::bf16), h200(2 * kGiB));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::environment);
    EXPECT_THAT(e.message(), ::testing::HasSubstr("GiB at the least"));
  }
}

TEST(ParseBytes, TakesAmountsWithUnits) {
  EXPECT_EQ(parse_bytes("memory.vram", "16GiB"), 16 * kGiB);
  EXPECT_EQ(parse_bytes("memory.vram", "1.5 GiB"), 3 * kGiB / 2);
  EXPECT_EQ(parse_bytes("memory.vram", "16 GB"), 16'000'000'000);
  EXPECT_EQ(parse_bytes("memory.vram", "1048576"), 1 << 20);
  for (const char* bad : {"", "GiB", "16 gigs", "-3GiB", "0GiB", "1e300GiB", "nan"})
    EXPECT_THROW(parse_bytes("memory.vram", bad), Error) << bad;
}

}  // namespace
}  // namespace fluxlora::train
