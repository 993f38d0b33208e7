// SPDX-License-Identifier: Apache-2.0
// The transformer against diffusers and PEFT: every block, the loss, the gradient of every adapter,
// ten steps of training, the sampler. What the files hold: tests/golden/README.md.
#include "golden.h"

#include <cmath>
#include <memory>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "backend/cpu/cpu_device.h"
#include "flow/euler.h"
#include "flow/pack.h"
#include "optim/optimizer.h"

namespace fluxlora {
namespace {

// Both sides compute in f32. Their distance from the same mathematics in f64 is about 1e-6 per
// block (make_golden.py --floor); 1e-4 is the project's bound for every tensor.
constexpr double kTolerance = 1e-4;

class Golden : public ::testing::Test {
 protected:
  std::unique_ptr<Device> device = open_cpu_device();
  flux::Transformer model{*device, golden::source("assets/tiny-flux/transformer"), DType::f32};
  SafetensorsFile inputs = golden::open("transformer");

  flux::Sizes sizes() {
    const auto& packed = inputs.entry("x_t").shape;  // (B, N, 64), 6 x 8 tokens
    return model.sizes(packed[0], inputs.entry("txt").shape[1], 6, packed[1] / 6);
  }
};

nlohmann::json metadata(const SafetensorsFile& file, const std::string& key) {
  return nlohmann::json::parse(file.metadata().at(key));
}

double alpha_of(const SafetensorsFile& file) {
  return metadata(file, "alpha").get<double>();
}

TEST_F(Golden, EveryBlockIsDiffusers) {
  const flux::Sizes z = sizes();
  flux::Workspace workspace(model, z);
  golden::fill_inputs(workspace, *device, inputs);
  int compared = 0;
  const auto compare = [&](const std::string& name, const Tensor& found) {
    EXPECT_LT(relative_error(found, golden::read(inputs, name).view), kTolerance) << name;
    ++compared;
  };
  workspace.observe([&](const std::string& block, const Tensor& x, const flux::Pending& p) {
    HostTensor whole = golden::contiguous(x);  // x + gate y
    for (flux::Stream s : flux::kStreams)
      if (p.y) device->ops().gate_add(z.of(s, whole.view), z.of(s, x), z.of(s, p.y), p.gate[s]);
    const Tensor txt = z.of(flux::txt, whole.view), img = z.of(flux::img, whole.view);
    if (block == "embedders") {
      compare("txt_in", txt);
      compare("img_in", img);
    } else if (block.starts_with("double")) {
      compare(block + ".txt", txt);
      compare(block + ".img", img);
    } else {
      compare(block, whole.view);
    }
  });
  workspace.forward();
  compare("pred", workspace.prediction());
  EXPECT_EQ(compared, 2 + 2 * model.config().depth + model.config().depth_single + 1);
}

TEST_F(Golden, TrainingWorkspaceGivesTheSamePrediction) {
  flux::Workspace keep(model, sizes(), {.training = true}), scratch(model, sizes());
  golden::fill_inputs(keep, *device, inputs);
  golden::fill_inputs(scratch, *device, inputs);
  keep.forward();
  scratch.forward();
  EXPECT_EQ(max_difference(keep.prediction(), scratch.prediction()), 0);
}

class GoldenGradients : public Golden, public ::testing::WithParamInterface<const char*> {};

TEST_P(GoldenGradients, LossAndEveryMatrixIsPeft) {
  const SafetensorsFile file = golden::open(GetParam());
  const auto set = golden::attach(model, file, alpha_of(file), true);
  flux::Workspace workspace(model, sizes(), {.training = true, .pooled_grad = true});
  golden::fill_inputs(workspace, *device, inputs);
  workspace.forward();
  EXPECT_LT(relative_error(workspace.prediction(), golden::read(file, "pred").view), kTolerance);
  const HostTensor loss = golden::flow_loss(workspace, *device, golden::read(inputs, "x0"),
                                            golden::read(inputs, "noise"));
  EXPECT_LT(relative_error(loss.view, golden::read(file, "loss").view), kTolerance);
  workspace.backward();
  EXPECT_LT(relative_error(workspace.d_pooled(), golden::read(file, "d_pooled").view), kTolerance);

  double difference = 0, norm = 0, worst = 0;
  std::string worst_name;
  for (const lora::Segment& segment : set->segments()) {
    const HostTensor expected = golden::matrix(file, "grad.", *set, segment);
    const Tensor found = set->grads()
                             .slice(0, segment.offset, segment.rows * segment.columns)
                             .reshaped({segment.rows, segment.columns});
    const double error = relative_error(found, expected.view);
    double square = 0;
    for (int64_t i = 0; i < expected.view.size(); ++i)
      square += std::pow(expected.view.as<float>()[i], 2);
    ASSERT_GT(square, 0) << "a gradient of zero proves nothing";
    difference += error * error * square;
    norm += square;
    if (error > worst) {
      worst = error;
      worst_name =
          set->specs()[segment.spec].module + (segment.role == lora::Role::a ? " A" : " B");
    }
  }
  EXPECT_LT(worst, kTolerance) << worst_name;
  EXPECT_LT(std::sqrt(difference / norm), kTolerance);
  printf("%s: %zu matrices, worst %.2e (%s), all %.2e\n", GetParam(), set->segments().size(), worst,
         worst_name.c_str(), std::sqrt(difference / norm));
}

INSTANTIATE_TEST_SUITE_P(Targets, GoldenGradients, ::testing::Values("lora_default", "lora_all"));

TEST_F(Golden, TenStepsOfAdamW) {
  const SafetensorsFile start = golden::open("lora_default"), file = golden::open("training");
  const auto set = golden::attach(model, start, alpha_of(start), true);
  flux::Workspace workspace(model, sizes(), {.training = true});
  golden::fill_inputs(workspace, *device, inputs);
  golden::fill(*device, workspace.inputs().guidance, file, "guidance");
  const auto adamw = metadata(file, "adamw");
  optim::Options options;
  options.weight_decay = adamw.at("weight_decay").get<double>();
  options.max_grad_norm = metadata(file, "max_norm").get<double>();
  const auto optimizer = optim::make_optimizer(*device, options, {{0, 1, set->size()}}, DType::f32);
  const HostTensor noise = golden::read(file, "noise"), t = golden::read(file, "t");
  const HostTensor losses = golden::read(file, "losses"), norms = golden::read(file, "grad_norms");
  const HostTensor x0 = golden::read(inputs, "x0");
  for (int64_t step = 0; step < 10; ++step) {
    HostTensor step_noise(DType::f32, {noise.view.dim(1), noise.view.dim(2), noise.view.dim(3)});
    device->ops().copy(step_noise.view, noise.view.item(step));
    const HostTensor step_t(DType::f32, {t.view.dim(1)});
    for (int64_t b = 0; b < t.view.dim(1); ++b)
      step_t.view.as<float>()[b] = t.view.as<float>()[step * t.view.dim(1) + b];
    device->upload(workspace.inputs().t, step_t.view.data());
    device->ops().flow_interpolate(workspace.inputs().img, x0.view, step_noise.view, step_t.view);
    device->ops().fill(set->grads(), 0);
    workspace.forward();
    const HostTensor loss = golden::flow_loss(workspace, *device, x0, step_noise);
    workspace.backward();
    double mean = 0;
    for (int64_t b = 0; b < loss.view.size(); ++b)
      mean += loss.view.as<float>()[b] / static_cast<double>(loss.view.size());
    HostTensor norm(DType::f32, {1});
    device->ops().global_norm(norm.view, set->grads());
    const float expected = losses.view.as<float>()[step];
    EXPECT_NEAR(mean, expected, kTolerance * expected) << "step " << step;
    const float expected_norm = norms.view.as<float>()[step];
    EXPECT_NEAR(norm.view.as<float>()[0], expected_norm, kTolerance * expected_norm)
        << "step " << step;
    optimizer->step(set->params(), set->grads(), norm.view, adamw.at("lr").get<double>(), step + 1);
  }
  double worst = 0;
  for (const lora::Segment& segment : set->segments())
    worst = std::max(worst, relative_error(set->download(segment).view,
                                           golden::matrix(file, "final.", *set, segment).view));
  EXPECT_LT(worst, kTolerance);
  printf("ten steps: worst parameter matrix %.2e\n", worst);
}

TEST_F(Golden, SamplerIsFluxPipeline) {
  const SafetensorsFile file = golden::open("sampling"), adapters = golden::open("lora_default");
  const auto& shape = file.entry("latents").shape;  // (1, 16, h, w)
  const int64_t C = shape[1], h = shape[2], w = shape[3];
  const SchedulerConfig scheduler =
      read_scheduler_config(golden::source("assets/tiny-flux/scheduler"));
  for (const bool with_lora : {false, true}) {
    std::unique_ptr<lora::AdapterSet> set;
    if (with_lora) set = golden::attach(model, adapters, alpha_of(adapters), false);
    flux::Workspace workspace(model, model.sizes(1, 64, h / 2, w / 2));
    const flux::Inputs& in = workspace.inputs();
    // The prompt is the first of transformer.safetensors.
    device->upload(in.txt, golden::read(inputs, "txt").view.data());
    device->upload(in.pooled, golden::read(inputs, "pooled").view.data());
    device->ops().fill(in.guidance, metadata(file, "guidance").get<double>());
    const HostTensor first = golden::read(file, "latents");
    HostTensor last(DType::f32, {1, h, w, C}), result(DType::f32, {1, C, h, w});
    flow::channels_last(last.view, first.view);
    flow::pack(in.img, last.view);
    flow::sample(*device, workspace, flow::sampling_times(scheduler, 8, (h / 2) * (w / 2)));
    flow::unpack(last.view, in.img);
    flow::channels_first(result.view, last.view);
    EXPECT_LT(
        relative_error(result.view, golden::read(file, with_lora ? "result_lora" : "result").view),
        kTolerance);
  }
}

}  // namespace
}  // namespace fluxlora
