// SPDX-License-Identifier: Apache-2.0
// What adapters need beside products: dropout, and DoRA's scaling of rows.
#include <cstring>

#include "op_case.h"

namespace fluxlora::testing {
namespace {

class Adapters : public OpTest {
 protected:
  DropoutOptions dropout(double rate, std::initializer_list<int32_t> draw, uint32_t layer = 0) {
    draws_.emplace_back(DType::i32, std::initializer_list<int64_t>{5});
    std::memcpy(draws_.back().view.data(), draw.begin(), 5 * sizeof(int32_t));
    return {rate, layer, draws_.back().view};
  }
  Tensor multiplier(float m) {
    const Tensor t = poisoned({1}, DType::f32);
    t.as<float>()[0] = m;
    return t;
  }
  std::vector<HostTensor> draws_;
};

TEST_F(Adapters, DropoutSetsAsideItsShareAndKeepsTheMean) {
  const Tensor x = random({2, 1000, 17}, 0, 1);
  ops().dropout(x, dropout(0.3, {1, 5, 6, 7, 8}));
  double zeros = 0;
  for (int64_t i = 0; i < x.size(); ++i) {
    const double v = x.as<double>()[i];
    EXPECT_TRUE(v == 0 || v == 1 / 0.7) << v;
    zeros += v == 0;
  }
  // Three standard deviations of a binomial share.
  EXPECT_NEAR(zeros / 34000, 0.3, 3 * std::sqrt(0.3 * 0.7 / 34000));
}

TEST_F(Adapters, DropoutIsAFunctionOfItsNumbers) {
  const auto kept = [&](const DropoutOptions& options, bool gaps = false) {
    Tensor x = random({2, 9, 5}, 0, 1);
    if (gaps) x = strided(x);
    ops().dropout(x, options);
    return copy_of(x);
  };
  const Tensor once = kept(dropout(0.5, {1, 5, 6, 7, 8}));
  EXPECT_EQ(max_difference(once, kept(dropout(0.5, {1, 5, 6, 7, 8}), true)), 0);
  EXPECT_GT(max_difference(once, kept(dropout(0.5, {1, 5, 6, 7, 8}, 1))), 0) << "another layer";
  for (const auto& other : {std::initializer_list<int32_t>{1, 4, 6, 7, 8},
                            {1, 5, 5, 7, 8},
                            {1, 5, 6, 6, 8},
                            {1, 5, 6, 7, 7}})
    EXPECT_GT(max_difference(once, kept(dropout(0.5, other))), 0);
  const Tensor off = kept(dropout(0.5, {0, 5, 6, 7, 8}));
  for (int64_t i = 0; i < off.size(); ++i) EXPECT_EQ(off.as<double>()[i], 1);
}

TEST_F(Adapters, DoraGainIsTheNormOfTheChangedWeight) {
  constexpr int64_t kO = 13, kI = 29, kR = 4;
  constexpr double kS = 0.7;
  const Tensor W = random({kO, kI}), A = random({kR, kI}), B = random({kO, kR});
  const Tensor magnitude = random({kO}, 0.2, 2), square = poisoned({kO});
  const Tensor cross = poisoned({kR, kO}), second = poisoned({kO, kR}), gram = poisoned({kR, kR});
  for (int64_t o = 0; o < kO; ++o) {
    square.as<double>()[o] = 0;
    for (int64_t i = 0; i < kI; ++i) square.as<double>()[o] += at(W, 0, o, i) * at(W, 0, o, i);
  }
  ops().dense(cross, A, W, {}, Grad::overwrite);
  ops().dense(gram, A, A, {}, Grad::overwrite);
  ops().dense(second, B, gram, {}, Grad::overwrite);
  const Tensor gain = poisoned({kO}), scaled = poisoned({kO, kR});
  ops().dora_gain(gain, scaled, magnitude, {square, cross, second, B, kS});
  for (int64_t o = 0; o < kO; ++o) {
    double norm = 0;
    for (int64_t i = 0; i < kI; ++i) {
      double w = at(W, 0, o, i);
      for (int64_t r = 0; r < kR; ++r) w += kS * at(B, 0, o, r) * at(A, 0, r, i);
      norm += w * w;
    }
    const double expected = at(magnitude, 0, 0, o) / std::sqrt(norm);
    EXPECT_NEAR(at(gain, 0, 0, o), expected, 1e-12 * expected);
    for (int64_t r = 0; r < kR; ++r)
      EXPECT_NEAR(at(scaled, 0, o, r), expected * at(B, 0, o, r), 1e-12);
  }
}

TEST_F(Adapters, DoraScaleIsTheFormula) {
  for (const float m : {0.0f, 0.5f, 1.0f}) {
    const Tensor y = random({2, 5, 7}), bias = random({7}), gain = random({7}, 0.3, 1);
    const Tensor before = copy_of(y);
    ops().dora_scale(y, bias, {gain, gain, multiplier(m)});
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t t = 0; t < 5; ++t)
        for (int64_t c = 0; c < 7; ++c) {
          const double base = at(before, b, t, c) - at(bias, 0, 0, c), g = at(gain, 0, 0, c);
          EXPECT_NEAR(at(y, b, t, c), at(bias, 0, 0, c) + (1 + double{m} * (g - 1)) * base, 1e-14);
        }
    if (m == 0) {
      EXPECT_EQ(max_difference(y, before), 0);
    }
  }
}

/// y = bias + (magnitude / norm) u: the gradients of u and of magnitude by central differences.
TEST_F(Adapters, DoraScaleHasItsGradients) {
  const Tensor u = random({2, 5, 7}), bias = random({7}), weight = random({2, 5, 7});
  const Tensor magnitude = random({7}, 0.3, 2), norm = random({7}, 0.2, 3);
  const Tensor gain = poisoned({7}), y = poisoned({2, 5, 7});
  const auto forward = [&] {
    for (int64_t c = 0; c < 7; ++c) at(gain, 0, 0, c) = at(magnitude, 0, 0, c) / at(norm, 0, 0, c);
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t t = 0; t < 5; ++t)
        for (int64_t c = 0; c < 7; ++c) at(y, b, t, c) = at(u, b, t, c) + at(bias, 0, 0, c);
    ops().dora_scale(y, bias, {gain, magnitude, multiplier(1)});
    return dot(y, weight);
  };
  forward();
  const Tensor d = copy_of(weight), d_magnitude = poisoned({7});
  ops().fill(d_magnitude, 0);
  ops().dora_scale_bwd(d, d_magnitude, y, bias, {gain, magnitude, multiplier(1)});
  expect_gradient(forward, u, d, "u");
  expect_gradient(forward, magnitude, d_magnitude, "magnitude");
}

TEST_F(Adapters, DoraScaleBackwardKnowsStridesAndThreads) {
  const Tensor m = multiplier(1), m0 = multiplier(0);
  const auto call = [&](const std::vector<Tensor>& a) {
    ops().fill(a[1], 0.5);
    ops().dora_scale(a[2], a[3], {a[4], a[5], m});
    ops().dora_scale_bwd(a[0], a[1], a[2], a[3], {a[4], a[5], m});
    ops().dora_scale_bwd(a[0], {}, {}, a[3], {a[4], a[5], m0});
  };
  check(
      {both({2, 9, 70}), out({70}), both({2, 9, 70}), in({70}), in({70}, 0.2, 1), in({70}, 0.2, 2)},
      call);
}

}  // namespace
}  // namespace fluxlora::testing
