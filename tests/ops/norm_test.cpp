// SPDX-License-Identifier: Apache-2.0
// LayerNorm, RMSNorm, GroupNorm.
#include "op_case.h"

namespace fluxlora::testing {
namespace {

using Norm = OpTest;

TEST_F(Norm, LayerNormIsTheFormula) {
  check_formula(
      {out({2, 7, 21}), out({2, 7, 2}), in({2, 7, 21}, 2, 1), in({21}), in({21})},
      [&](const auto& a) { ops().layer_norm(a[0], a[1], a[2], a[3], a[4], 1e-5); },
      [&](const auto& a) {
        for (int64_t b = 0; b < 2; ++b)
          for (int64_t t = 0; t < 7; ++t) {
            double mean = 0, variance = 0;
            for (int64_t i = 0; i < 21; ++i) mean += at(a[2], b, t, i) / 21;
            for (int64_t i = 0; i < 21; ++i) variance += std::pow(at(a[2], b, t, i) - mean, 2) / 21;
            at(a[1], b, t, 0) = mean;
            at(a[1], b, t, 1) = 1 / std::sqrt(variance + 1e-5);
            for (int64_t i = 0; i < 21; ++i)
              at(a[0], b, t, i) =
                  (at(a[2], b, t, i) - mean) / std::sqrt(variance + 1e-5) * at(a[3], 0, 0, i) +
                  at(a[4], 0, 0, i);
          }
      });
}

TEST_F(Norm, LayerNormHasItsGradient) {
  const Tensor x = random({2, 7, 21}), w = random({21}), b = random({21}), c = random({2, 7, 21});
  const Tensor y = poisoned({2, 7, 21}), stats = poisoned({2, 7, 2}), dx = poisoned({2, 7, 21});
  const auto loss = [&] { return ops().layer_norm(y, stats, x, w, b, 1e-5), dot(y, c); };
  loss();
  ops().layer_norm_bwd(dx, c, x, stats, w, Grad::overwrite);
  const Tensor sum = random({2, 7, 21}), before = copy_of(sum);
  ops().layer_norm_bwd(sum, c, x, stats, w, Grad::accumulate);
  ops().add_scaled(sum, before, -1);
  EXPECT_LE(relative_error(sum, dx), 1e-14);
  expect_gradient(loss, x, dx, "x");
  check(
      {out({2, 7, 21}), in({2, 7, 21}), in({2, 7, 21}), in({2, 7, 2}, 0.1, 0.8), in({21})},
      [&](const auto& a) { ops().layer_norm_bwd(a[0], a[1], a[2], a[3], a[4], Grad::overwrite); });
  ops().layer_norm(y, {}, x, w, b, 1e-5);  // statistics are optional
}

TEST_F(Norm, RmsNormIsTheFormula) {
  check_formula(
      {out({2, 7, 21}), in({2, 7, 21}), in({21})},
      [&](const auto& a) { ops().rms_norm(a[0], a[1], a[2], 1e-6); },
      [&](const auto& a) {
        for (int64_t b = 0; b < 2; ++b)
          for (int64_t t = 0; t < 7; ++t) {
            double square = 0;
            for (int64_t i = 0; i < 21; ++i) square += std::pow(at(a[1], b, t, i), 2) / 21;
            for (int64_t i = 0; i < 21; ++i)
              at(a[0], b, t, i) = at(a[1], b, t, i) / std::sqrt(square + 1e-6) * at(a[2], 0, 0, i);
          }
      });
}

void naive_group_norm(const std::vector<Tensor>& a, int64_t groups, bool silu) {
  const Tensor &y = a[0], &x = a[1];
  const int64_t width = x.dim(2) / groups;
  const auto count = static_cast<double>(x.dim(1) * width);
  for (int64_t b = 0; b < x.dim(0); ++b)
    for (int64_t g = 0; g < groups; ++g) {
      double mean = 0, variance = 0;
      for (int64_t p = 0; p < x.dim(1); ++p)
        for (int64_t i = g * width; i < (g + 1) * width; ++i) mean += at(x, b, p, i) / count;
      for (int64_t p = 0; p < x.dim(1); ++p)
        for (int64_t i = g * width; i < (g + 1) * width; ++i)
          variance += std::pow(at(x, b, p, i) - mean, 2) / count;
      for (int64_t p = 0; p < x.dim(1); ++p)
        for (int64_t i = g * width; i < (g + 1) * width; ++i) {
          const double v =
              (at(x, b, p, i) - mean) / std::sqrt(variance + 1e-6) * at(a[2], 0, 0, i) +
              at(a[3], 0, 0, i);
          at(y, b, p, i) = silu ? v / (1 + std::exp(-v)) : v;
        }
    }
}

TEST_F(Norm, GroupNormIsTheFormula) {
  for (const bool silu : {false, true})
    check_formula(
        {out({2, 150, 24}), in({2, 150, 24}, 2, 3), in({24}), in({24})},
        [&](const auto& a) { ops().group_norm(a[0], a[1], a[2], a[3], 4, 1e-6, silu); },
        [&](const auto& a) { naive_group_norm(a, 4, silu); });
}

TEST_F(Norm, GroupNormInPlace) {
  const Tensor x = random({2, 70, 8}), w = random({8}), b = random({8}), y = poisoned({2, 70, 8});
  ops().group_norm(y, x, w, b, 2, 1e-6, true);
  ops().group_norm(x, x, w, b, 2, 1e-6, true);
  EXPECT_EQ(max_difference(x, y), 0);
}

}  // namespace
}  // namespace fluxlora::testing
