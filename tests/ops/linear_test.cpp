// SPDX-License-Identifier: Apache-2.0
// Products: linear, linear_dx and the three of the adapters.
#include "op_case.h"
#include "tensor/quantise.h"

namespace fluxlora::testing {
namespace {

class Linear : public OpTest {
 protected:
  static Weight weight(const Tensor& values) {
    const auto format = values.dtype() == DType::f64   ? WeightFormat::f64
                        : values.dtype() == DType::f32 ? WeightFormat::f32
                                                       : WeightFormat::bf16;
    return {format, values};
  }
};

/// y (+)= alpha x aᵀ + bias by loops.
void naive(const Tensor& y, const Tensor& x, const Tensor& a, const Tensor& bias, double alpha,
           bool add) {
  for (int64_t b = 0; b < (y.rank() == 3 ? y.dim(0) : 1); ++b)
    for (int64_t t = 0; t < y.dim(-2); ++t)
      for (int64_t o = 0; o < y.dim(-1); ++o) {
        double sum = 0;
        for (int64_t i = 0; i < x.dim(-1); ++i) sum += at(x, b, t, i) * at(a, 0, o, i);
        sum = alpha * sum + (bias ? at(bias, 0, 0, o) : 0);
        at(y, b, t, o) = add ? at(y, b, t, o) + sum : sum;
      }
}

TEST_F(Linear, IsTheFormula) {
  // Many rows (split by rows), few rows (split by columns), vectors, one token.
  for (const Shape& rows : {Shape{2, 37}, Shape{1, 3}, Shape{5}, Shape{3, 1}, Shape{2, 130}}) {
    Shape y = rows, x = rows;
    y.push_back(53);
    x.push_back(70);
    check_formula(
        {out(y), in(x), in({53, 70}), in({53})},
        [&](const auto& a) { ops().linear(a[0], a[1], weight(a[2]), a[3]); },
        [&](const auto& a) { naive(a[0], a[1], a[2], a[3], 1, false); });
    check_formula(
        {out(y), in(x), in({53, 70})},
        [&](const auto& a) { ops().linear(a[0], a[1], weight(a[2]), {}); },
        [&](const auto& a) { naive(a[0], a[1], a[2], {}, 1, false); });
  }
}

TEST_F(Linear, WideRowsAreSplitByColumns) {
  check({out({2, 1000}), in({2, 160}), in({1000, 160}), in({1000})},
        [&](const auto& a) { ops().linear(a[0], a[1], weight(a[2]), a[3]); });
}

// Rows of several items with gaps between them: gathered into one product where that pays.
TEST_F(Linear, GathersWideRowsOfEveryLayout) {
  check({out({3, 40, 90}), in({3, 40, 70}), in({90, 70}), in({90})},
        [&](const auto& a) { ops().linear(a[0], a[1], weight(a[2]), a[3]); });
  check({both({3, 40, 70}), in({3, 40, 90}), in({90, 70})},
        [&](const auto& a) { ops().linear_dx(a[0], a[1], weight(a[2]), Grad::accumulate); });
  const Tensor x = random({3, 40, 70}), w = random({90, 70}), bias = random({90});
  const Tensor exact = poisoned({3, 40, 90}), gaps = strided(exact);
  ops().linear(exact, x, weight(w), bias);
  ops().linear(gaps, x, weight(w), bias);
  EXPECT_LE(relative_error(copy_of(gaps), exact), 1e-14);
  ops().fill(gaps, 0);
  ops().linear(gaps, strided(x), weight(w), {});
  ops().linear(exact, strided(x), weight(w), {});
  EXPECT_LE(relative_error(copy_of(gaps), exact), 1e-14);
}

TEST_F(Linear, AddsToWhatIsThere) {
  // Wide and narrow, for rows with and without a single stride.
  for (const int64_t columns : {int64_t{53}, int64_t{90}})
    check_formula(
        {both({3, 40, columns}), in({3, 40, 70}), in({columns, 70}), in({columns})},
        [&](const auto& a) { ops().linear(a[0], a[1], weight(a[2]), a[3], Grad::accumulate); },
        [&](const auto& a) { naive(a[0], a[1], a[2], a[3], 1, true); });
}

TEST_F(Linear, DxIsTheGradient) {
  for (const Grad mode : {Grad::overwrite, Grad::accumulate}) {
    const auto role = mode == Grad::overwrite ? out({2, 9, 70}) : both({2, 9, 70});
    check({role, in({2, 9, 53}), in({53, 70})},
          [&](const auto& a) { ops().linear_dx(a[0], a[1], weight(a[2]), mode); });
  }
  const Tensor x = random({2, 9, 7}), w = random({11, 7}), bias = random({11});
  const Tensor y = poisoned({2, 9, 11}), c = random({2, 9, 11}), dx = poisoned({2, 9, 7});
  ops().linear_dx(dx, c, weight(w), Grad::overwrite);
  expect_gradient([&] { return ops().linear(y, x, weight(w), bias), dot(y, c); }, x, dx, "dx");
}

TEST_F(Linear, TakesWeightsOfEveryFormat) {
  const int64_t outs = 300, ins = 4100;  // more than one panel of converted rows
  const Tensor x = random({1, 5, ins}), w64 = random({outs, ins}), bias = random({outs});
  const Tensor w16 = poisoned({outs, ins}, DType::f64);
  HostTensor bf16(DType::bf16, {outs, ins});
  ops().cast(bf16.view, w64);
  ops().cast(w16, bf16.view);  // the same values in f64
  const Tensor exact = poisoned({1, 5, outs}), got = poisoned({1, 5, outs});
  ops().linear(exact, x, weight(w16), bias);
  ops().linear(got, x, weight(bf16.view), bias);
  EXPECT_LE(relative_error(got, exact), 1e-13);

  const Tensor dy = random({1, 5, outs}), dx = poisoned({1, 5, ins}), dx_got = copy_of(dx);
  ops().linear_dx(dx, dy, weight(w16), Grad::overwrite);
  ops().linear_dx(dx_got, dy, weight(bf16.view), Grad::overwrite);
  EXPECT_LE(relative_error(dx_got, dx), 1e-13);

  HostTensor w32(DType::f32, {outs, ins}), bias32(DType::f32, {outs});
  ops().cast(w32.view, w64);
  ops().cast(bias32.view, bias);
  ops().linear(exact, x, weight(w64), bias);
  ops().linear(got, x, weight(w32.view), bias32.view);
  EXPECT_LE(relative_error(got, exact), 1e-13);
}

/// Codes are multiplied as the numbers that they stand for.
TEST_F(Linear, TakesWeightsInFewBits) {
  const int64_t outs = 300, ins = 4100;
  const Tensor x = random({1, 5, ins}), dy = random({1, 5, outs}), w = random({outs, ins});
  HostTensor w32(DType::f32, {outs, ins});
  ops().cast(w32.view, w);
  for (const WeightFormat format : {WeightFormat::fp8, WeightFormat::int8, WeightFormat::nf4}) {
    Weight codes{.format = format, .values = {}};
    std::vector<HostTensor> memory;
    for_storage(format, outs, ins, [&](Tensor Weight::* field, DType dtype, auto shape) {
      codes.*field = memory.emplace_back(dtype, shape).view;
    });
    ops().quantise(codes, w32.view);
    for (int64_t o = 0; o < outs; ++o) read_row(DType::f64, &at(w, 0, o, 0), codes, o);
    const Tensor y = poisoned({1, 5, outs}), exact = copy_of(y);
    ops().linear(y, x, codes, {});
    ops().linear(exact, x, weight(w), {});
    EXPECT_LE(relative_error(y, exact), 1e-13);
    const Tensor dx = poisoned({1, 5, ins}), dx_exact = copy_of(dx);
    ops().linear_dx(dx, dy, codes, Grad::overwrite);
    ops().linear_dx(dx_exact, dy, weight(w), Grad::overwrite);
    EXPECT_LE(relative_error(dx, dx_exact), 1e-13);
  }
}

TEST_F(Linear, AGroupIsTheSumOfItsProducts) {
  const Tensor xa = random({2, 5, 6}), xb = random({2, 3, 6}), wa = random({4, 6}),
               wb = random({8, 6});
  const Tensor ya = poisoned({2, 5, 4}), yb = poisoned({2, 3, 8}), alone = poisoned({2, 3, 8});
  const Weight first = weight(wa), second = weight(wb);
  const LinearCall calls[] = {{ya, xa, &first, {}}, {yb, xb, &second, {}}};
  ops().linear_group(calls);
  ops().linear(alone, xb, second, {});
  EXPECT_EQ(max_difference(yb, alone), 0);
}

TEST_F(Linear, DenseIsTheFormula) {
  for (const Grad mode : {Grad::overwrite, Grad::accumulate}) {
    const Arg y = mode == Grad::overwrite ? out({2, 21, 9}) : both({2, 21, 9});
    check_formula(
        {y, in({2, 21, 33}), in({9, 33})},
        [&](const auto& a) { ops().dense(a[0], a[1], a[2], {0.7}, mode); },
        [&](const auto& a) { naive(a[0], a[1], a[2], {}, 0.7, mode == Grad::accumulate); });
  }
}

TEST_F(Linear, DenseHasItsGradients) {
  HostTensor factor(DType::f32, {1});
  *factor.view.as<float>() = 0.5f;
  const Scale scale{1.3, factor.view};
  for (const auto& [in_width, rank] : {std::pair<int64_t, int64_t>{33, 4}, {5, 40}}) {
    const Tensor x = random({2, 21, in_width}), a = random({rank, in_width});
    const Tensor y = poisoned({2, 21, rank}), c = random({2, 21, rank});
    const Tensor dx = poisoned({2, 21, in_width}), da = poisoned({rank, in_width});
    ops().dense_dx(dx, c, a, scale, Grad::overwrite);
    ops().dense_dw(da, c, x, scale, Grad::overwrite);
    const auto loss = [&] {
      ops().dense(y, x, a, scale, Grad::overwrite);
      return dot(y, c);
    };
    expect_gradient(loss, x, dx, "dx");
    expect_gradient(loss, a, da, "da");
  }
}

TEST_F(Linear, DenseGradientsTakeEveryLayout) {
  for (const Grad mode : {Grad::overwrite, Grad::accumulate}) {
    const auto role = [&](const Shape& s) { return mode == Grad::overwrite ? out(s) : both(s); };
    check({role({3, 40, 70}), in({3, 40, 16}), in({16, 70})},
          [&](const auto& a) { ops().dense_dx(a[0], a[1], a[2], {0.3}, mode); });
    check({role({16, 170}), in({3, 40, 16}), in({3, 40, 170})},
          [&](const auto& a) { ops().dense_dw(a[0], a[1], a[2], {0.3}, mode); });
    check({role({170, 8}), in({3, 40, 170}), in({3, 40, 8})},
          [&](const auto& a) { ops().dense_dw(a[0], a[1], a[2], {0.3}, mode); });
  }
}

TEST_F(Linear, AFactorOfZeroAddsNothing) {
  HostTensor zero(DType::f32, {1});
  *zero.view.as<float>() = 0;
  const Scale off{1, zero.view};
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Tensor x = random({1, 4, 6}), a = random({3, 6}), y = random({1, 4, 3}),
               before = copy_of(y);
  at(x, 0, 0, 0) = nan;  // not even a NaN times zero
  ops().dense(y, x, a, off, Grad::accumulate);
  EXPECT_EQ(max_difference(y, before), 0);
  ops().dense(y, x, a, off, Grad::overwrite);
  EXPECT_EQ(dot(y, y), 0);
  const Tensor dx = poisoned({1, 4, 6}), da = poisoned({3, 6}), dy = random({1, 4, 3});
  ops().dense_dx(dx, dy, a, off, Grad::overwrite);
  ops().dense_dw(da, dy, x, off, Grad::overwrite);
  EXPECT_EQ(dot(dx, dx), 0);
  EXPECT_EQ(dot(da, da), 0);
}

TEST_F(Linear, IgnoreLeavesItAlone) {
  const Tensor x = random({1, 4, 6}), a = random({3, 6}), y = random({1, 4, 3}),
               before = copy_of(y);
  ops().dense(y, x, a, {}, Grad::ignore);
  EXPECT_EQ(max_difference(y, before), 0);
}

}  // namespace
}  // namespace fluxlora::testing
