// SPDX-License-Identifier: Apache-2.0
// LayerNorm with modulation, the gated residual and the operation that fuses them.
#include "op_case.h"

namespace fluxlora::testing {
namespace {

using Modulate = OpTest;

void naive_ln(const Tensor& h, const Tensor& stats, const Tensor& x, const Tensor& shift,
              const Tensor& scale) {
  const auto n = static_cast<double>(x.dim(2));
  for (int64_t b = 0; b < x.dim(0); ++b)
    for (int64_t t = 0; t < x.dim(1); ++t) {
      double mean = 0, variance = 0;
      for (int64_t i = 0; i < x.dim(2); ++i) mean += at(x, b, t, i) / n;
      for (int64_t i = 0; i < x.dim(2); ++i) variance += std::pow(at(x, b, t, i) - mean, 2) / n;
      const double inverse = 1 / std::sqrt(variance + 1e-6);
      at(stats, b, t, 0) = mean;
      at(stats, b, t, 1) = inverse;
      for (int64_t i = 0; i < x.dim(2); ++i)
        at(h, b, t, i) =
            (at(x, b, t, i) - mean) * inverse * (1 + at(scale, 0, b, i)) + at(shift, 0, b, i);
    }
}

TEST_F(Modulate, LnIsTheFormula) {
  for (const Shape& s : {Shape{2, 7, 13}, Shape{3, 70, 160}, Shape{1, 1, 5}}) {
    check_formula(
        {out(s), out({s[0], s[1], 2}), in(s, 2, 0.5), in({s[0], s[2]}), in({s[0], s[2]})},
        [&](const auto& a) { ops().ln_modulate(a[0], a[1], a[2], a[3], a[4]); },
        [&](const auto& a) { naive_ln(a[0], a[1], a[2], a[3], a[4]); });
  }
}

TEST_F(Modulate, LnKeepsDigitsBesideALargeMean) {
  check(
      {out({1, 9, 64}), out({1, 9, 2}), in({1, 9, 64}, 1, 100), in({1, 64}), in({1, 64})},
      [&](const auto& a) { ops().ln_modulate(a[0], a[1], a[2], a[3], a[4]); }, 1e-4);
}

TEST_F(Modulate, LnHasItsGradients) {
  const Tensor x = random({2, 71, 19}), shift = random({2, 19}), scale = random({2, 19});
  const Tensor h = poisoned({2, 71, 19}), stats = poisoned({2, 71, 2}), c = random({2, 71, 19});
  const Tensor dx = poisoned({2, 71, 19}), d_shift = poisoned({2, 19}), d_scale = poisoned({2, 19});
  const auto loss = [&] { return ops().ln_modulate(h, stats, x, shift, scale), dot(h, c); };
  loss();
  ops().ln_modulate_bwd(dx, d_shift, d_scale, c, x, stats, scale, Grad::overwrite);
  const Tensor kept = copy_of(stats);
  expect_gradient(loss, x, dx, "x");
  expect_gradient(loss, shift, d_shift, "shift");
  expect_gradient(loss, scale, d_scale, "scale");

  const Tensor sum = random({2, 71, 19}), before = copy_of(sum);
  ops().ln_modulate_bwd(sum, {}, {}, c, x, kept, scale, Grad::accumulate);
  ops().add_scaled(sum, before, -1);
  EXPECT_LE(relative_error(sum, dx), 1e-14);
  ops().ln_modulate_bwd({}, d_shift, d_scale, c, x, kept, scale, Grad::ignore);
}

TEST_F(Modulate, LnBackwardTakesEveryLayout) {
  check({both({2, 71, 33}), out({2, 33}), out({2, 33}), in({2, 71, 33}), in({2, 71, 33}),
         in({2, 71, 2}, 0.1, 0.8), in({2, 33})},
        [&](const auto& a) {
          ops().ln_modulate_bwd(a[0], a[1], a[2], a[3], a[4], a[5], a[6], Grad::accumulate);
        });
}

TEST_F(Modulate, GateAddIsTheFormula) {
  check_formula(
      {out({2, 7, 13}), in({2, 7, 13}), in({2, 7, 13}), in({2, 13})},
      [&](const auto& a) { ops().gate_add(a[0], a[1], a[2], a[3]); },
      [&](const auto& a) {
        for (int64_t b = 0; b < 2; ++b)
          for (int64_t t = 0; t < 7; ++t)
            for (int64_t i = 0; i < 13; ++i)
              at(a[0], b, t, i) = at(a[1], b, t, i) + at(a[3], 0, b, i) * at(a[2], b, t, i);
      });
}

TEST_F(Modulate, GateAddHasItsGradients) {
  const Tensor x = random({2, 40, 13}), y = random({2, 40, 13}), gate = random({2, 13});
  const Tensor o = poisoned({2, 40, 13}), c = random({2, 40, 13});
  const Tensor dy = poisoned({2, 40, 13}), d_gate = poisoned({2, 13});
  const auto loss = [&] { return ops().gate_add(o, x, y, gate), dot(o, c); };
  ops().gate_add_bwd(dy, d_gate, c, y, gate);
  expect_gradient(loss, y, dy, "y");
  expect_gradient(loss, gate, d_gate, "gate");
  const Tensor alone = poisoned({2, 40, 13});
  ops().gate_add_bwd(alone, {}, c, {}, gate);
  EXPECT_EQ(max_difference(alone, dy), 0);
  check({out({2, 40, 13}), out({2, 13}), in({2, 40, 13}), in({2, 40, 13}), in({2, 13})},
        [&](const auto& a) { ops().gate_add_bwd(a[0], a[1], a[2], a[3], a[4]); });
}

TEST_F(Modulate, TheFusedOneIsItsParts) {
  const Shape s{2, 40, 13};
  const auto parts = [&](const auto& a) {
    ops().gate_add(a[0], a[3], a[4], a[5]);
    ops().ln_modulate(a[1], a[2], a[0], a[6], a[7]);
  };
  check_formula(
      {out(s), out(s), out({2, 40, 2}), in(s), in(s), in({2, 13}), in({2, 13}), in({2, 13})},
      [&](const auto& a) {
        ops().gate_add_ln_modulate(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
      },
      parts);
}

TEST_F(Modulate, TheFusedOneHasItsGradients) {
  const Shape s{2, 40, 13}, v{2, 13};
  const Tensor x = random(s), y = random(s), gate = random(v), shift = random(v), scale = random(v);
  const Tensor x_out = poisoned(s), h = poisoned(s), stats = poisoned({2, 40, 2});
  const Tensor c = random(s), c_out = random(s);
  const auto loss = [&] {
    ops().gate_add_ln_modulate(x_out, h, stats, x, y, gate, shift, scale);
    return dot(h, c) + dot(x_out, c_out);
  };
  loss();
  const Tensor dx = copy_of(c_out), dy = poisoned(s), d_gate = poisoned(v);
  const Tensor d_shift = poisoned(v), d_scale = poisoned(v);
  ops().gate_add_ln_modulate_bwd(dx, dy, d_gate, d_shift, d_scale, c, x_out, stats, scale, y, gate);
  expect_gradient(loss, x, dx, "x");
  expect_gradient(loss, y, dy, "y");
  expect_gradient(loss, gate, d_gate, "gate");
  expect_gradient(loss, shift, d_shift, "shift");
  expect_gradient(loss, scale, d_scale, "scale");
}

TEST_F(Modulate, WithoutABranchTheFusedOneIsTheNorm) {
  const Shape s{2, 6, 13}, v{2, 13};
  const Tensor x = random(s), shift = random(v), scale = random(v);
  const Tensor h = poisoned(s), stats = poisoned({2, 6, 2}), plain = poisoned(s);
  const Tensor kept = copy_of(x), moved = poisoned(s);
  ops().gate_add_ln_modulate(x, h, stats, x, {}, {}, shift, scale);
  EXPECT_EQ(max_difference(x, kept), 0);
  ops().ln_modulate(plain, stats, x, shift, scale);
  EXPECT_EQ(max_difference(h, plain), 0);
  ops().gate_add_ln_modulate(moved, h, stats, x, {}, {}, shift, scale);
  EXPECT_EQ(max_difference(moved, x), 0);
}

}  // namespace
}  // namespace fluxlora::testing
