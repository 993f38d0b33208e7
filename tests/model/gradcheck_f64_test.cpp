// SPDX-License-Identifier: Apache-2.0
// The shipped transformer, unchanged, in double: its hand-written backward against central
// differences of its forward, along random directions, with A and B both non-zero.
#include <cmath>
#include <functional>
#include <memory>

#include <gtest/gtest.h>

#include "backend/cpu/cpu_device.h"
#include "base/philox.h"
#include "golden.h"

namespace fluxlora {
namespace {

void randomise(const Tensor& t, uint32_t stream, double deviation) {
  Philox random(5, Draw::noise, stream);
  for (int64_t i = 0; i < t.size(); ++i) t.as<double>()[i] = deviation * random.normal();
}

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) sum += a.as<double>()[i] * b.as<double>()[i];
  return sum;
}

/// `type` and `dropout_of` are lora::Options'; no dropout where the latter is empty.
struct Adapted {
  std::vector<std::string> targets;
  std::string type = "lora", dropout_of = "";
};

class GradcheckF64 : public ::testing::TestWithParam<Adapted> {
 protected:
  std::unique_ptr<Device> device = open_cpu_device();
  flux::Transformer model{*device, golden::source("assets/tiny-flux/transformer"), DType::f64};
};

/// L(x + h d) and L(x - h d) against <gradient, d>, as a share of what the direction changes.
void expect_derivative(const Tensor& x, const Tensor& gradient, const std::function<double()>& loss,
                       uint32_t stream, const std::string& what) {
  HostTensor direction(DType::f64, {x.size()}), start(DType::f64, {x.size()});
  randomise(direction.view, stream, 1 / std::sqrt(static_cast<double>(x.size())));
  std::copy_n(x.as<double>(), x.size(), start.view.as<double>());
  const double h = 1e-4;
  double value[2];
  for (int side : {0, 1}) {
    for (int64_t i = 0; i < x.size(); ++i)
      x.as<double>()[i] =
          start.view.as<double>()[i] + (side ? h : -h) * direction.view.as<double>()[i];
    value[side] = loss();
  }
  std::copy_n(start.view.as<double>(), x.size(), x.as<double>());
  const double numeric = (value[1] - value[0]) / (2 * h);
  const Tensor flat_gradient(DType::f64, {gradient.size()}, gradient.data());
  const double analytic = dot(flat_gradient, direction.view);
  const double scale =
      std::sqrt(dot(flat_gradient, flat_gradient) * dot(direction.view, direction.view) /
                static_cast<double>(x.size()));
  ASSERT_GT(scale, 0) << what;
  // Central differences: error h² f''' / 6 and rounding 1e-16 L / h, both well below 1e-6 of the
  // slope that a random direction has.
  EXPECT_LT(std::fabs(numeric - analytic), 1e-6 * std::max(std::fabs(analytic), scale)) << what;
}

TEST_P(GradcheckF64, BackwardIsTheDerivativeOfForward) {
  lora::Options options;
  options.rank = 3;
  options.alpha = 5;
  options.targets = GetParam().targets;
  options.type = GetParam().type;
  options.factor = 4;
  lora::AdapterSet set(*device, model.weights(), lora::select_targets(model.config(), options),
                       DType::f64, true);
  set.measure_rows(model.loaded());
  set.initialise(1, "kaiming");
  HostTensor changes(DType::f64, {set.size()});
  randomise(changes.view, 1, 0.05);
  device->ops().add_scaled(set.params(), changes.view, 1);
  if (!GetParam().dropout_of.empty()) {
    options.dropout = 0.3;
    options.dropout_of = GetParam().dropout_of;
    set.use_dropout(options);
    set.draw_dropout(1, 2, 3);
  }

  const flux::Sizes z = model.sizes(2, 7, 3, 2);  // sizes that fit nothing evenly
  flux::Workspace workspace(model, z, {.training = true, .pooled_grad = true});
  const flux::Inputs& in = workspace.inputs();
  randomise(in.img, 2, 1);
  randomise(in.txt, 3, 1);
  randomise(in.pooled, 4, 1);
  in.t.as<double>()[0] = 0.3;
  in.t.as<double>()[1] = 0.8;
  in.guidance.as<double>()[0] = 1.0;
  in.guidance.as<double>()[1] = 3.5;
  HostTensor x0(DType::f64, {z.B, z.N(), model.config().in_channels}),
      noise(DType::f64, {z.B, z.N(), model.config().in_channels});
  randomise(x0.view, 5, 1);
  randomise(noise.view, 6, 1);
  HostTensor loss(DType::f64, {z.B}), weight(DType::f64, {z.B});
  weight.view.as<double>()[0] = 0.5;
  weight.view.as<double>()[1] = 0.7;
  const auto run = [&] {
    set.refresh();
    workspace.forward();
    device->ops().flow_loss(loss.view, workspace.d_prediction(), workspace.prediction(), x0.view,
                            noise.view, weight.view);
    return dot(loss.view, weight.view);
  };
  // DoRA's norms are constants to the backward: where A or B move, magnitudes move with the norms,
  // so that their quotients stay as they are now.
  std::vector<std::pair<DoraRows, double>> rows;
  const auto run_with_norms_held = [&] {
    if (rows.empty()) return run();
    workspace.forward();
    HostTensor magnitudes(DType::f64, {set.size()});
    std::copy_n(set.params().as<double>(), set.size(), magnitudes.view.as<double>());
    for (const auto& [dora, gain] : rows)
      dora.magnitude.as<double>()[0] *= gain / dora.gain.as<double>()[0];
    const double value = run();
    device->ops().copy(set.params(), magnitudes.view);
    return value;
  };
  run();
  workspace.backward();
  set.finish_gradients();
  flux::visit_linears(model.weights(), [&](const std::string&, const AdaptedLinear& layer) {
    for (const LoraSlice& slice : layer.adapters)
      for (int64_t i = 0; slice.dora && i < slice.rows; ++i)
        rows.push_back(
            {{slice.dora.magnitude.slice(0, i, 1), {}, {}, slice.dora.gain.slice(0, i, 1), {}},
             slice.dora.gain.as<double>()[i]});
  });
  HostTensor gradient(DType::f64, {set.size()}), d_pooled(DType::f64, {in.pooled.size()});
  std::copy_n(set.grads().as<double>(), set.size(), gradient.view.as<double>());
  std::copy_n(workspace.d_pooled().as<double>(), in.pooled.size(), d_pooled.view.as<double>());

  for (uint32_t direction = 0; rows.empty() && direction < 3; ++direction)
    expect_derivative(set.params(), gradient.view, run, 100 + direction, "all adapters");
  for (const lora::Segment& s : set.segments()) {
    const int64_t count = s.rows * s.columns;
    expect_derivative(
        set.params().slice(0, s.offset, count), gradient.view.slice(0, s.offset, count),
        s.role == lora::Role::magnitude ? std::function<double()>(run) : run_with_norms_held, 200,
        set.specs()[s.spec].module + " role " + std::to_string(static_cast<int>(s.role)));
  }
  expect_derivative(in.pooled.reshaped({in.pooled.size()}), d_pooled.view, run, 300, "pooled");
}

INSTANTIATE_TEST_SUITE_P(
    Targets, GradcheckF64,
    ::testing::Values(Adapted{{"default"}}, Adapted{{"kohya"}},
                      Adapted{{"ai-toolkit", "img_in", "txt_in", "time_in.*", "vector_in.*",
                               "guidance_in.*", "final_layer.*"}},
                      Adapted{{"transformer_blocks.0.*", "single_blocks.0.*"}, "lora", "rank"},
                      Adapted{{"double_blocks.1.*", "single_blocks.1.*"}, "lora", "input"},
                      Adapted{{"transformer_blocks.1.*", "single_transformer_blocks.2.*"}, "dora"},
                      Adapted{{"transformer_blocks.0.*", "single_transformer_blocks.1.*"}, "lokr"},
                      Adapted{{"double_blocks.0.*", "single_blocks.0.*"}, "dora", "rank"}));

TEST_F(GradcheckF64, MultiplierZeroIsTheBaseBitForBit) {
  const flux::Sizes z = model.sizes(1, 8, 4, 4);
  HostTensor base(DType::f64, {z.B, z.N(), model.config().in_channels});
  const auto run = [&](const Tensor& result) {
    flux::Workspace workspace(model, z);
    randomise(workspace.inputs().img, 2, 1);
    randomise(workspace.inputs().txt, 3, 1);
    randomise(workspace.inputs().pooled, 4, 1);
    workspace.inputs().t.as<double>()[0] = 0.4;
    workspace.inputs().guidance.as<double>()[0] = 2;
    workspace.forward();
    device->ops().copy(result, workspace.prediction());
  };
  run(base.view);
  lora::AdapterSet set(*device, model.weights(), lora::select_targets(model.config(), {}),
                       DType::f64, false);
  randomise(set.params(), 1, 0.05);
  HostTensor adapted(DType::f64, {z.B, z.N(), model.config().in_channels});
  run(adapted.view);
  EXPECT_GT(relative_error(adapted.view, base.view), 1e-3);
  set.set_multiplier(0);
  run(adapted.view);
  EXPECT_EQ(max_difference(adapted.view, base.view), 0);
}

}  // namespace
}  // namespace fluxlora
