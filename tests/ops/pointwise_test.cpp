// SPDX-License-Identifier: Apache-2.0
// Activation functions and the exponential below them.
#include <numbers>

#include "backend/cpu/elementary.h"
#include "op_case.h"

namespace fluxlora::testing {
namespace {

using Pointwise = OpTest;

double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}
double silu(double x) {
  return x / (1 + std::exp(-x));
}
double quick_gelu(double x) {
  return x / (1 + std::exp(-1.702 * x));
}

void for_all(const Tensor& x, const std::function<void(int64_t, int64_t, int64_t)>& f) {
  for (int64_t b = 0; b < x.dim(0); ++b)
    for (int64_t t = 0; t < x.dim(1); ++t)
      for (int64_t i = 0; i < x.dim(2); ++i) f(b, t, i);
}

using Unary = void (Ops::*)(const Tensor&, const Tensor&);
using UnaryBackward = void (Ops::*)(const Tensor&, const Tensor&, const Tensor&);

TEST_F(Pointwise, AreTheirFormulas) {
  const Shape s{2, 150, 91};
  for (const auto& [op, formula] : {std::pair<Unary, double (*)(double)>{&Ops::gelu_tanh, gelu},
                                    {&Ops::silu, silu},
                                    {&Ops::quick_gelu, quick_gelu}})
    check_formula(
        {out(s), in(s, 3)}, [&](const auto& a) { (ops().*op)(a[0], a[1]); },
        [&](const auto& a) {
          for_all(a[0], [&](int64_t b, int64_t t, int64_t i) {
            at(a[0], b, t, i) = formula(at(a[1], b, t, i));
          });
        });
  check_formula(
      {out(s), in(s), in(s)}, [&](const auto& a) { ops().gelu_gate(a[0], a[1], a[2]); },
      [&](const auto& a) {
        for_all(a[0], [&](int64_t b, int64_t t, int64_t i) {
          at(a[0], b, t, i) = gelu(at(a[1], b, t, i)) * at(a[2], b, t, i);
        });
      });
}

TEST_F(Pointwise, HaveTheirGradients) {
  const Shape s{2, 9, 17};
  const UnaryBackward silu_overwrite = nullptr;
  for (const auto& [op, backward] :
       {std::pair<Unary, UnaryBackward>{&Ops::gelu_tanh, &Ops::gelu_tanh_bwd},
        {&Ops::silu, silu_overwrite},
        {&Ops::quick_gelu, &Ops::quick_gelu_bwd}}) {
    const Tensor x = random(s, 2), c = random(s), y = poisoned(s), dx = poisoned(s);
    const auto back = [&](const Tensor& d, const Tensor& dy, const Tensor& at_x) {
      backward ? (ops().*backward)(d, dy, at_x) : ops().silu_bwd(d, dy, at_x, Grad::overwrite);
    };
    back(dx, c, x);
    expect_gradient([&] { return (ops().*op)(y, x), dot(y, c); }, x, dx, "x");
    check({out(s), in(s), in(s)}, [&](const auto& a) { back(a[0], a[1], a[2]); });
    back(c, c, x);  // dx may lie where dy did
    EXPECT_EQ(max_difference(c, dx), 0);
  }
}

TEST_F(Pointwise, SiluBackwardAccumulates) {
  const Shape s{3, 17};  // vectors
  const Tensor x = random(s), c = random(s), dx = poisoned(s), sum = random(s),
               before = copy_of(sum);
  ops().silu_bwd(dx, c, x, Grad::overwrite);
  ops().silu_bwd(sum, c, x, Grad::accumulate);
  ops().add_scaled(sum, before, -1);
  EXPECT_LE(relative_error(sum, dx), 1e-14);
}

TEST_F(Pointwise, AreFiniteForLargeArguments) {
  HostTensor x(DType::f32, {1, 1, 6}), y(DType::f32, {1, 1, 6});
  const float values[] = {-1e30f, -200, -20, 20, 200, 1e30f};
  std::copy_n(values, 6, x.view.as<float>());
  for (const Unary op : {Unary{&Ops::gelu_tanh}, Unary{&Ops::silu}, Unary{&Ops::quick_gelu}}) {
    (ops().*op)(y.view, x.view);
    for (int i = 0; i < 6; ++i) {
      EXPECT_TRUE(std::isfinite(y.view.as<float>()[i])) << values[i];
      EXPECT_NE(std::fpclassify(y.view.as<float>()[i]), FP_SUBNORMAL) << values[i];
      EXPECT_NEAR(y.view.as<float>()[i], i < 3 ? 0 : values[i], 1e-6 * std::fabs(values[i])) << i;
    }
  }
}

// 2 ulp is what simd.h promises.
TEST(Exponential, AgreesWithLibm) {
  double worst = 0;
  for (double x = -50; x < 88; x += 1.0 / 4096) {
    const auto argument = static_cast<float>(x);
    const double exact = std::exp(static_cast<double>(argument));
    const auto nearest = static_cast<float>(exact);
    const double ulp = static_cast<double>(std::nextafter(nearest, 1e38f)) - nearest;
    worst = std::max(worst, std::fabs(exp_of(argument) - exact) / ulp);
  }
  EXPECT_LE(worst, 2);
  EXPECT_EQ(exp_of(0.f), 1.f);
  EXPECT_EQ(exp_of(-50.1f), 0.f);
  EXPECT_EQ(exp_of(-1000.f), 0.f);
  EXPECT_EQ(exp_of(-std::numeric_limits<float>::infinity()), 0.f);
  EXPECT_TRUE(std::isfinite(exp_of(1000.f)));
  EXPECT_TRUE(std::isnan(exp_of(std::numeric_limits<float>::quiet_NaN())));
}

}  // namespace
}  // namespace fluxlora::testing
