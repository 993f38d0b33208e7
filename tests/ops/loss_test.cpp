// SPDX-License-Identifier: Apache-2.0
// The flow: interpolation, loss and its gradient.
#include "base/parallel.h"
#include "op_case.h"

namespace fluxlora::testing {
namespace {

using Flow = OpTest;
const Shape kShape{3, 41, 17};

TEST_F(Flow, InterpolateIsTheFormula) {
  check_formula(
      {out(kShape), in(kShape), in(kShape), in({3}, 0.2, 0.5)},
      [&](const auto& a) { ops().flow_interpolate(a[0], a[1], a[2], a[3]); },
      [&](const auto& a) {
        for (int64_t b = 0; b < 3; ++b)
          for (int64_t n = 0; n < 41; ++n)
            for (int64_t c = 0; c < 17; ++c) {
              const double t = at(a[3], 0, 0, b);
              at(a[0], b, n, c) = (1 - t) * at(a[1], b, n, c) + t * at(a[2], b, n, c);
            }
      });
}

void naive(const std::vector<Tensor>& a) {
  for (int64_t b = 0; b < 3; ++b) {
    double sum = 0;
    for (int64_t n = 0; n < 41; ++n)
      for (int64_t c = 0; c < 17; ++c) {
        const double difference = at(a[2], b, n, c) - (at(a[4], b, n, c) - at(a[3], b, n, c));
        sum += difference * difference / (41 * 17);
        at(a[1], b, n, c) = at(a[5], 0, 0, b) * 2 * difference / (41 * 17);
      }
    at(a[0], 0, 0, b) = sum;
  }
}

TEST_F(Flow, LossIsTheFormula) {
  check_formula(
      {out({3}), out(kShape), in(kShape), in(kShape), in(kShape), in({3})},
      [&](const auto& a) { ops().flow_loss(a[0], a[1], a[2], a[3], a[4], a[5]); }, naive);
}

TEST_F(Flow, LossHasItsGradient) {
  const Tensor pred = random(kShape), x0 = random(kShape), noise = random(kShape);
  const Tensor weight = random({3}), loss = poisoned({3}), d_pred = poisoned(kShape);
  ops().flow_loss(loss, d_pred, pred, x0, noise, weight);
  expect_gradient(
      [&] {
        ops().flow_loss(loss, {}, pred, x0, noise, {});  // the gradient is optional
        return dot(loss, weight);
      },
      pred, d_pred, "pred");
}

const Shape kPatches{3, 41, 20};
const Shape kMask{3, 41, 4};

TEST_F(Flow, MaskedLossIsTheFormula) {
  check_formula(
      {out({3}), out(kPatches), in(kPatches), in(kPatches), in(kPatches), in({3}),
       in(kMask, 0.3, 1)},
      [&](const auto& a) { ops().flow_loss(a[0], a[1], a[2], a[3], a[4], a[5], a[6]); },
      [&](const auto& a) {
        for (int64_t b = 0; b < 3; ++b) {
          double sum = 0;
          for (int64_t n = 0; n < 41; ++n)
            for (int64_t i = 0; i < 20; ++i) {
              const double d = at(a[2], b, n, i) - (at(a[4], b, n, i) - at(a[3], b, n, i));
              const double share = at(a[6], b, n, i % 4);
              sum += share * d * d / (41 * 20);
              at(a[1], b, n, i) = at(a[5], 0, 0, b) * 2 * share * d / (41 * 20);
            }
          at(a[0], 0, 0, b) = sum;
        }
      });
}

TEST_F(Flow, MaskedLossHasItsGradient) {
  const Tensor pred = random(kPatches), x0 = random(kPatches), noise = random(kPatches);
  const Tensor mask = random(kMask, 0.3, 1), weight = random({3});
  const Tensor loss = poisoned({3}), d_pred = poisoned(kPatches);
  ops().flow_loss(loss, d_pred, pred, x0, noise, weight, mask);
  expect_gradient(
      [&] {
        ops().flow_loss(loss, {}, pred, x0, noise, {}, mask);
        return dot(loss, weight);
      },
      pred, d_pred, "pred");
}

/// What has no share gets no gradient, and a mask of ones is none.
TEST_F(Flow, TheMaskCutsOutPixels) {
  const Tensor pred = random(kPatches), x0 = random(kPatches), noise = random(kPatches);
  const Tensor weight = random({3}), mask = poisoned(kMask);
  const Tensor plain = poisoned(kPatches), masked = poisoned(kPatches);
  const Tensor loss = poisoned({3}), masked_loss = poisoned({3});
  ops().fill(mask, 1);
  ops().flow_loss(loss, plain, pred, x0, noise, weight);
  ops().flow_loss(masked_loss, masked, pred, x0, noise, weight, mask);
  EXPECT_EQ(max_difference(plain, masked), 0);
  EXPECT_LE(max_difference(loss, masked_loss), 1e-14);  // each square is rounded once more
  at(mask, 1, 40, 2) = 0;
  ops().flow_loss(masked_loss, masked, pred, x0, noise, weight, mask);
  for (int64_t i = 0; i < 20; ++i)
    EXPECT_EQ(at(masked, 1, 40, i), i % 4 == 2 ? 0 : at(plain, 1, 40, i)) << i;
}

TEST_F(Flow, LossDoesNotDependOnTheThreadCount) {
  const auto losses = [&] {
    return outputs({out({3}), out(kShape), in(kShape), in(kShape), in(kShape), in({3})}, DType::f32,
                   false,
                   [&](const auto& a) { ops().flow_loss(a[0], a[1], a[2], a[3], a[4], a[5]); });
  };
  const int threads = thread_count();
  set_thread_count(1);
  const auto one = losses();
  set_thread_count(3);
  const auto three = losses();
  set_thread_count(threads);
  EXPECT_EQ(max_difference(one[0], three[0]), 0);
  EXPECT_EQ(max_difference(one[1], three[1]), 0);
}

const Penalty kHuber{0.5, 2};

TEST_F(Flow, HuberLossIsTheFormula) {
  check_formula(
      {out({3}), out(kShape), in(kShape), in(kShape), in(kShape), in({3})},
      [&](const auto& a) { ops().flow_loss(a[0], a[1], a[2], a[3], a[4], a[5], {}, kHuber); },
      [&](const auto& a) {
        for (int64_t b = 0; b < 3; ++b) {
          double sum = 0;
          for (int64_t n = 0; n < 41; ++n)
            for (int64_t i = 0; i < 17; ++i) {
              const double e = at(a[2], b, n, i) - (at(a[4], b, n, i) - at(a[3], b, n, i));
              sum += 2 * (std::sqrt(e * e + 0.25) - 0.5) / (41 * 17);
              at(a[1], b, n, i) = at(a[5], 0, 0, b) * 2 * e / std::sqrt(e * e + 0.25) / (41 * 17);
            }
          at(a[0], 0, 0, b) = sum;
        }
      });
}

TEST_F(Flow, HuberLossHasItsGradient) {
  const Tensor pred = random(kShape), x0 = random(kShape), noise = random(kShape);
  const Tensor weight = random({3}), loss = poisoned({3}), d_pred = poisoned(kShape);
  ops().flow_loss(loss, d_pred, pred, x0, noise, weight, {}, kHuber);
  expect_gradient(
      [&] {
        ops().flow_loss(loss, {}, pred, x0, noise, {}, {}, kHuber);
        return dot(loss, weight);
      },
      pred, d_pred, "pred");
}

}  // namespace
}  // namespace fluxlora::testing
