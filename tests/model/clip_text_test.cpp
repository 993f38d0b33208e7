// SPDX-License-Identifier: Apache-2.0
// CLIP against transformers (forward) and PEFT (gradients of its LoRA through the whole
// transformer) on the built-in model, and its backward in double against finite differences.
#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "backend/cpu/cpu_device.h"
#include "base/error.h"
#include "base/philox.h"
#include "clip_adapters.h"
#include "golden.h"

namespace fluxlora {
namespace {

// f32 sums of these sizes: another order of adding changes 1e-6; 1e-5 leaves room for another BLAS.
constexpr double kForward = 1e-5;
// The gradients pass through CLIP, the transformer and back.
constexpr double kGradient = 1e-4;

std::vector<int32_t> golden_ids(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsFile::Entry& entry = file.entry(name);
  std::vector<int32_t> ids(static_cast<size_t>(entry.bytes) / sizeof(int32_t));
  std::memcpy(ids.data(), entry.data, static_cast<size_t>(entry.bytes));
  return ids;
}

TEST(ClipText, PooledVectorOfTheBuiltInModel) {
  const auto device = open_cpu_device();
  const SafetensorsFile file = golden::open("encoders");
  ClipText clip(*device, golden::source("assets/tiny-flux/text_encoder"), DType::f32);
  const HostTensor expected = golden::read(file, "pooled");
  for (const bool training : {false, true}) {
    clip.prepare(expected.view.dim(0), training);
    const Tensor& pooled = clip.forward(golden_ids(file, "clip_ids"));
    EXPECT_LT(relative_error(pooled, expected.view), kForward) << training;
  }
}

TEST(ClipText, GradientsOfItsLoraThroughTheTransformer) {
  const auto device = open_cpu_device();
  const SafetensorsFile file = golden::open("lora_clip"), batch = golden::open("transformer");
  ClipText clip(*device, golden::source("assets/tiny-flux/text_encoder"), DType::f32);
  const int64_t rank = std::stoll(file.metadata().at("rank"));
  const double scale = std::stod(file.metadata().at("alpha")) / static_cast<double>(rank);
  ClipAdapters adapters = attach_adapters(
      clip, DType::f32, scale,
      [&](const std::string&, const AdaptedLinear& linear) { return whole_layer(linear, rank); });
  const auto name_in_file = [](const std::string& name) {
    return "text_encoder." + name.substr(0, name.rfind('.')) +
           (name.ends_with(".A") ? ".lora_A.weight" : ".lora_B.weight");
  };
  for (auto& [name, matrix] : adapters)
    golden::fill(*device, matrix.value.view, file, name_in_file(name));

  flux::Transformer model(*device, golden::source("assets/tiny-flux/transformer"), DType::f32);
  const HostTensor x_t = golden::read(batch, "x_t");
  const int64_t B = x_t.view.dim(0);
  clip.prepare(B, true);
  const Tensor& pooled = clip.forward(golden_ids(file, "clip_ids"));
  EXPECT_LT(relative_error(pooled, golden::read(file, "pooled").view), kForward);

  const flux::Sizes z = model.sizes(B, golden::read(batch, "txt").view.dim(1), 6, 8);
  flux::Workspace workspace(model, z, {.training = true, .pooled_grad = true});
  golden::fill_inputs(workspace, *device, batch);
  device->ops().copy(workspace.inputs().pooled, pooled);
  workspace.forward();
  const HostTensor loss = golden::flow_loss(workspace, *device, golden::read(batch, "x0"),
                                            golden::read(batch, "noise"));
  EXPECT_LT(relative_error(loss.view, golden::read(file, "loss").view), kForward);
  workspace.backward();
  clip.backward(workspace.d_pooled());
  for (auto& [name, matrix] : adapters) {
    const HostTensor expected = golden::read(file, "grad." + name_in_file(name));
    EXPECT_LT(relative_error(matrix.gradient.view, expected.view), kGradient) << name;
  }
}

TEST(ClipText, PoolsAtTheFirstEndOfText) {
  const auto device = open_cpu_device();
  ClipText clip(*device, golden::source("assets/tiny-flux/text_encoder"), DType::f32);
  const auto eos = static_cast<int32_t>(clip.config().eos_id);
  const auto T = static_cast<size_t>(clip.config().positions);
  std::vector<int32_t> ids(T, 5), other(T, 5);
  ids[4] = other[4] = eos;
  // The model is causal: what follows the end does not matter, a later end neither.
  for (size_t i = 5; i < T; ++i) other[i] = i == 9 ? eos : 77;
  // One after the other: a matrix product may round the rows of a second prompt differently.
  clip.prepare(1, false);
  std::vector<float> pooled(static_cast<size_t>(clip.config().width)), with_other(pooled.size());
  device->download(pooled.data(), clip.forward(ids));
  device->download(with_other.data(), clip.forward(other));
  EXPECT_EQ(pooled, with_other);
}

TEST(ClipText, RefusesIdsBeyondItsTable) {
  const auto device = open_cpu_device();
  ClipText clip(*device, golden::source("assets/tiny-flux/text_encoder"), DType::f32);
  clip.prepare(1, false);
  std::vector<int32_t> ids(static_cast<size_t>(clip.config().positions), 0);
  ids[3] = static_cast<int32_t>(clip.config().vocabulary);
  EXPECT_THROW(clip.forward(ids), Error);
}

// ---- finite differences
// ----------------------------------------------------------------------------

void randomise(const Tensor& t, uint32_t stream, double deviation) {
  Philox random(9, Draw::noise, stream);
  for (int64_t i = 0; i < t.size(); ++i) t.as<double>()[i] = deviation * random.normal();
}

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) sum += a.as<double>()[i] * b.as<double>()[i];
  return sum;
}

void add(const Tensor& y, const Tensor& x, double factor) {
  for (int64_t i = 0; i < y.size(); ++i) y.as<double>()[i] += factor * x.as<double>()[i];
}

class ClipGradcheck : public ::testing::Test {
 protected:
  std::unique_ptr<Device> device = open_cpu_device();
  ClipText clip{*device, golden::source("assets/tiny-flux/text_encoder"), DType::f64};
  std::vector<int32_t> ids;
  HostTensor d_pooled{DType::f64, {3, clip.config().width}};

  void SetUp() override {
    Philox random(9, Draw::order);
    for (int64_t i = 0; i < 3 * clip.config().positions; ++i)
      ids.push_back(static_cast<int32_t>(random.below(700)));
    ids[20] = ids[static_cast<size_t>(clip.config().positions)] =
        static_cast<int32_t>(clip.config().eos_id);
    ids.back() = ids[20];
    randomise(d_pooled.view, 1, 1);
  }

  /// L = <d_pooled, pooled>, so that dL/d pooled is d_pooled.
  double loss() { return dot(clip.forward(ids), d_pooled.view); }

  /// Central differences of h = 1e-4: error h² f''' / 6 and rounding 1e-16 L / h, below 1e-6 of the
  /// slope |gradient| / sqrt(size) that a random direction of length 1 has.
  void expect_derivative(TrainedMatrix& matrix, const Tensor& gradient, uint32_t stream,
                         const std::string& name) {
    HostTensor direction(DType::f64, {gradient.dim(0), gradient.dim(1)});
    const auto size = static_cast<double>(gradient.size());
    randomise(direction.view, stream, 1 / std::sqrt(size));
    const double h = 1e-4;
    add(matrix.value.view, direction.view, h);
    const double above = loss();
    add(matrix.value.view, direction.view, -2 * h);
    const double below = loss();
    add(matrix.value.view, direction.view, h);
    const double slope = std::sqrt(dot(gradient, gradient) / size);
    ASSERT_GT(slope, 0) << name;
    const double analytic = dot(gradient, direction.view);
    EXPECT_NEAR((above - below) / (2 * h), analytic, 1e-6 * std::max(slope, std::fabs(analytic)))
        << name;
  }

  void check(ClipAdapters& adapters) {
    uint32_t stream = 10;
    for (auto& [name, matrix] : adapters) randomise(matrix.value.view, stream++, 0.1);
    clip.prepare(3, true);
    loss();
    clip.backward(d_pooled.view);
    clip.prepare(3, false);  // the same forward without what the backward needs
    for (auto& [name, matrix] : adapters) {
      if (!matrix.gradient.view) continue;
      for (uint32_t direction = 0; direction < 2; ++direction)
        expect_derivative(matrix, matrix.gradient.view, 1000 + direction, name);
    }
  }
};

TEST_F(ClipGradcheck, OneAdapterPerLayerOrSeveral) {
  ClipAdapters adapters = attach_adapters(
      clip, DType::f64, 1.7, [](const std::string& name, const AdaptedLinear& linear) {
        const int64_t half = linear.out() / 2;
        if (name.ends_with("fc1") || name.ends_with("v_proj"))
          return std::vector<AdapterRows>{{0, half, 2}, {half, linear.out() - half, 3}};
        return whole_layer(linear, 4);
      });
  check(adapters);
}

TEST_F(ClipGradcheck, LayersBeforeTheFirstTrainedOneArePassedOver) {
  ClipAdapters adapters = attach_adapters(
      clip, DType::f64, 0.6,
      [](const std::string&, const AdaptedLinear& linear) { return whole_layer(linear, 2); });
  // Only the last layer's feed-forward trains; the other adapters act, but stay as they are.
  const std::string last = "layers." + std::to_string(clip.config().layers - 1) + ".mlp.";
  clip.visit_linears([&](const std::string& name, AdaptedLinear& linear) {
    if (name.find(last) != std::string::npos) return;
    linear.dA = {};
    for (LoraSlice& lora : linear.adapters) lora.dB = {};
  });
  for (auto& [name, matrix] : adapters)
    if (name.find(last) == std::string::npos) matrix.gradient.view = {};
  check(adapters);
}

}  // namespace
}  // namespace fluxlora
