// SPDX-License-Identifier: Apache-2.0
// An assistant or a start beside trained adapters is the same as a base weight that has it inside;
// DoRA is the layer of the weight whose rows have the magnitudes as norms.
#include "model/adapted_linear.h"

#include <cmath>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/philox.h"
#include "ops/device.h"
#include "tensor/buffer.h"
#include "tensor/compare.h"

namespace fluxlora {
namespace {

constexpr int64_t kB = 2, kT = 5, kIn = 24, kOut = 40, kR = 3, kFrozen = 4;

class Assistant : public testing::Test {
 protected:
  Tensor random(std::initializer_list<int64_t> shape) {
    memory_.emplace_back(DType::f64, shape);
    for (int64_t i = 0; i < memory_.back().view.size(); ++i)
      memory_.back().view.as<double>()[i] = random_.normal();
    return memory_.back().view;
  }
  Tensor zeros(std::initializer_list<int64_t> shape) {
    const Tensor t = random(shape);
    device_->ops().fill(t, 0);
    return t;
  }

  /// Two trained adapters, on rows 0 .. 15 and 20 .. 39.
  AdaptedLinear layer(const Tensor& weight) {
    AdaptedLinear l;
    l.weight = {WeightFormat::f64, weight};
    l.bias = bias_;
    l.A = A_;
    l.dA = zeros({2 * kR, kIn});
    l.adapters = {{0, 16, 0, kR, 0.7, B0_, zeros({16, kR}), {}},
                  {20, 20, kR, kR, 1.3, B1_, zeros({20, kR}), {}}};
    l.multiplier = on_;
    return l;
  }

  /// Everything that forward and backward give: y, dx, dA, both dB.
  std::vector<Tensor> run(const AdaptedLinear& l, bool with_dx = true) {
    Ops& op = device_->ops();
    const Tensor y = random({kB, kT, kOut}), t = random({kB, kT, l.kept_columns()});
    const Tensor dt = random({kB, kT, l.kept_columns()});
    const Tensor dx = with_dx ? random({kB, kT, kIn}) : Tensor{};
    adapted_linear(op, y, t, x_, l);
    adapted_linear_bwd(op, dx, Grad::overwrite, dt, dy_, {y, t, x_, &l});
    std::vector<Tensor> all{y, l.dA, l.adapters[0].dB, l.adapters[1].dB};
    if (with_dx) all.push_back(dx);
    return all;
  }

  Tensor scalar(float value) {
    memory_.emplace_back(DType::f32, std::initializer_list<int64_t>{1});
    memory_.back().view.as<float>()[0] = value;
    return memory_.back().view;
  }

  std::vector<HostTensor> memory_;
  Philox random_{11, Draw::init};
  std::unique_ptr<Device> device_ = open_device("cpu");
  Tensor x_ = random({kB, kT, kIn}), dy_ = random({kB, kT, kOut}), bias_ = random({kOut});
  Tensor A_ = random({2 * kR, kIn}), B0_ = random({16, kR}), B1_ = random({20, kR});
  Tensor on_ = scalar(1);
};

TEST_F(Assistant, IsAsIfInsideTheWeight) {
  const Tensor weight = random({kOut, kIn}), merged = random({kOut, kIn});
  const Tensor A = random({kFrozen, kIn}), B = random({25, kFrozen});
  const double scale = 0.4;
  for (int64_t o = 0; o < kOut; ++o)
    for (int64_t i = 0; i < kIn; ++i) {
      double value = weight.as<double>()[o * kIn + i];
      for (int64_t r = 0; r < kFrozen && o >= 10 && o < 35; ++r)
        value += scale * B.as<double>()[(o - 10) * kFrozen + r] * A.as<double>()[r * kIn + i];
      merged.as<double>()[o * kIn + i] = value;
    }
  for (const auto& [m, place] : {std::pair{1.0f, &AdaptedLinear::assistant},
                                 {0.0f, &AdaptedLinear::assistant},
                                 {1.0f, &AdaptedLinear::start}}) {
    AdaptedLinear l = layer(weight);
    LoraStack& stack = l.*place;
    stack.A = A;
    stack.adapters = {{10, 25, 0, kFrozen, scale, B, {}, {}}};
    stack.multiplier = scalar(m);
    EXPECT_EQ(l.kept_columns(), 2 * kR + kFrozen);
    const auto ours = run(l), expected = run(layer(m ? merged : weight));
    for (size_t i = 0; i < ours.size(); ++i)
      EXPECT_LE(relative_error(ours[i], expected[i]), m ? 1e-13 : 0) << i << " at " << m;
    const auto no_dx = run(l, false);  // dA and dB accumulate: twice the same
    for (size_t i = 1; i < no_dx.size(); ++i)
      EXPECT_LE(relative_error(no_dx[i], ours[i]), 1e-15) << i;
  }
}

/// Rows of W + s B A, at norms of their own. The norms are constants to the backward, so that its
/// dx is that of the same layer.
TEST_F(Assistant, DoraIsTheLayerOfItsWeight) {
  const Tensor weight = random({kOut, kIn}), scaled = random({kOut, kIn});
  device_->ops().copy(scaled, weight);
  AdaptedLinear l = layer(weight);
  l.cross = random({2 * kR * kOut});
  l.gram = random({kR * kR});
  l.second = random({20 * kR});
  for (LoraSlice& slice : l.adapters) {
    const Tensor target = random({slice.rows}), square = random({slice.rows});
    slice.dora = {target, zeros({slice.rows}), square, random({slice.rows}),
                  random({slice.rows, kR})};
    for (int64_t o = 0; o < slice.rows; ++o) {
      double* const row = scaled.as<double>() + (slice.row0 + o) * kIn;
      double before = 0, norm = 0;
      for (int64_t i = 0; i < kIn; ++i) {
        before += row[i] * row[i];
        for (int64_t r = 0; r < kR; ++r)
          row[i] += slice.scale * slice.B.as<double>()[o * kR + r] *
                    A_.as<double>()[(slice.rank0 + r) * kIn + i];
        norm += row[i] * row[i];
      }
      square.as<double>()[o] = before;
      for (int64_t i = 0; i < kIn; ++i) row[i] *= target.as<double>()[o] / std::sqrt(norm);
    }
  }
  AdaptedLinear plain;
  plain.weight = {WeightFormat::f64, scaled};
  plain.bias = bias_;
  Ops& op = device_->ops();
  const Tensor y = random({kB, kT, kOut}), dx = random({kB, kT, kIn}), dy = random({kB, kT, kOut});
  op.copy(dy, dy_);
  adapted_linear(op, y, {}, x_, plain);
  adapted_linear_bwd(op, dx, Grad::overwrite, {}, dy, {y, {}, x_, &plain});
  op.copy(dy, dy_);
  const Tensor t = random({kB, kT, 2 * kR}), dt = random({kB, kT, 2 * kR});
  const Tensor own_y = random({kB, kT, kOut}), own_dx = random({kB, kT, kIn});
  adapted_linear(op, own_y, t, x_, l);
  adapted_linear_bwd(op, own_dx, Grad::overwrite, dt, dy, {own_y, t, x_, &l});
  EXPECT_LE(relative_error(own_y, y), 1e-13);
  EXPECT_LE(relative_error(own_dx, dx), 1e-13);

  l.multiplier = scalar(0);
  plain.weight = {WeightFormat::f64, weight};
  adapted_linear(op, y, {}, x_, plain);
  adapted_linear(op, own_y, t, x_, l);
  EXPECT_EQ(max_difference(own_y, y), 0) << "m = 0 is the base bit for bit";
}

}  // namespace
}  // namespace fluxlora
