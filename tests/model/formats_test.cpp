// SPDX-License-Identifier: Apache-2.0
// What weights in few bits do to the gradients that train: layer by layer against bf16's.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include <gtest/gtest.h>

#include "backend/cpu/cpu_device.h"
#include "base/philox.h"
#include "golden.h"

namespace fluxlora {
namespace {

/// Gradients of A and B by layer, for a prediction of noise towards pictures that are noise too.
using Gradients = std::map<std::string, std::vector<double>>;

Gradients gradients(WeightFormat format) {
  const auto device = open_cpu_device();
  flux::Transformer model(*device, golden::source("assets/tiny-flux/transformer"), DType::f32,
                          format);
  lora::AdapterSet set(*device, model.weights(), lora::select_targets(model.config(), {}),
                       DType::f32, true);
  set.initialise(1, "kaiming");
  Philox numbers(5, Draw::init);
  for (int64_t i = 0; i < set.size(); ++i)
    set.params().as<float>()[i] += static_cast<float>(0.02 * numbers.normal());
  flux::Workspace work(model, model.sizes(2, 16, 8, 8), {.training = true});
  const flux::Inputs& in = work.inputs();
  for (const Tensor& t : {in.img, in.txt, in.pooled})
    for (int64_t i = 0; i < t.size(); ++i) t.as<float>()[i] = static_cast<float>(numbers.normal());
  device->ops().fill(in.t, 0.6);
  device->ops().fill(in.guidance, 1);
  device->ops().fill(set.grads(), 0);
  work.forward();
  const Tensor& y = work.prediction();
  for (int64_t i = 0; i < y.size(); ++i)  // of the squares of prediction - target
    work.d_prediction().as<float>()[i] = y.as<float>()[i] - static_cast<float>(numbers.normal());
  work.backward();
  Gradients all;
  for (const lora::Segment& s : set.segments()) {
    std::vector<double>& layer = all[set.specs()[s.spec].module];
    const float* const g = set.grads().as<const float>() + s.offset;
    layer.insert(layer.end(), g, g + s.rows * s.columns);
  }
  return all;
}

struct Cosines {
  double all = 0, worst = 1;
  std::string worst_layer;
};

Cosines cosines(const Gradients& a, const Gradients& b) {
  Cosines result;
  double ab = 0, aa = 0, bb = 0;
  for (const auto& [layer, x] : a) {
    const std::vector<double>& y = b.at(layer);
    double xy = 0, xx = 0, yy = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      xy += x[i] * y[i];
      xx += x[i] * x[i];
      yy += y[i] * y[i];
    }
    const double cosine = xy / std::sqrt(xx * yy);
    if (cosine < result.worst) result = {0, cosine, layer};
    ab += xy;
    aa += xx;
    bb += yy;
  }
  result.all = ab / std::sqrt(aa * bb);
  return result;
}

/// Weights are off by 0.6 % (int8), 2.6 % (fp8) and 9 % (NF4) of their size; a gradient's angle
/// grows with what its layers and those behind it pass on. Bounds leave half again of what the
/// built-in model shows (docs/memory.md).
TEST(Formats, KeepTheGradientsDirectionInEveryLayer) {
  const Gradients bf16 = gradients(WeightFormat::bf16);
  EXPECT_GT(bf16.size(), 20u);
  for (const auto& [format, all, worst] : {std::tuple{WeightFormat::int8, 0.9997, 0.9985},
                                           {WeightFormat::fp8, 0.9968, 0.984},
                                           {WeightFormat::nf4, 0.967, 0.82}}) {
    const Cosines found = cosines(gradients(format), bf16);
    EXPECT_GT(found.all, all) << found.worst << " in " << found.worst_layer;
    EXPECT_GT(found.worst, worst) << found.worst_layer;
  }
}

}  // namespace
}  // namespace fluxlora
