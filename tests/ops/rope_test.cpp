// SPDX-License-Identifier: Apache-2.0
// RMSNorm of q and k and their rotation.
#include "op_case.h"

namespace fluxlora::testing {
namespace {

using Rope = OpTest;
constexpr int64_t kBatch = 2, kTokens = 6, kHeads = 3, kWidth = 10, kModel = kHeads * kWidth;

void naive(const std::vector<Tensor>& a) {
  const Tensor &qkv = a[2], &pe = a[5];
  for (int part = 0; part < 2; ++part)
    for (int64_t b = 0; b < kBatch; ++b)
      for (int64_t t = 0; t < kTokens; ++t)
        for (int64_t h = 0; h < kHeads; ++h) {
          double x[kWidth], square = 0;
          for (int64_t e = 0; e < kWidth; ++e) {
            x[e] = at(qkv, b, t, part * kModel + h * kWidth + e);
            square += x[e] * x[e] / kWidth;
          }
          for (int64_t e = 0; e < kWidth; ++e)
            x[e] *= at(a[3 + static_cast<size_t>(part)], 0, 0, e) / std::sqrt(square + 1e-6);
          for (int64_t i = 0; i < kWidth / 2; ++i) {
            const double c = at(pe, t, i, 0), s = at(pe, t, i, 1);
            const Tensor& y = a[static_cast<size_t>(part)];
            at(y, b, t, h * kWidth + 2 * i) = x[2 * i] * c - x[2 * i + 1] * s;
            at(y, b, t, h * kWidth + 2 * i + 1) = x[2 * i] * s + x[2 * i + 1] * c;
          }
        }
}

const Shape kHeadRows{kBatch, kTokens, kModel}, kFused{kBatch, kTokens, 3 * kModel + 7};

TEST_F(Rope, IsTheFormula) {
  check_formula(
      {out(kHeadRows), out(kHeadRows), in(kFused), in({kWidth}), in({kWidth}),
       whole(in({kTokens, kWidth / 2, 2}))},
      [&](const auto& a) { ops().qk_norm_rope(a[0], a[1], a[2], a[3], a[4], a[5], kHeads); },
      naive);
}

TEST_F(Rope, HasItsGradient) {
  const Tensor qkv = random({kBatch, kTokens, 2 * kModel}), qw = random({kWidth});
  const Tensor kw = random({kWidth}), pe = random({kTokens, kWidth / 2, 2});
  const Tensor q = poisoned(kHeadRows), k = poisoned(kHeadRows);
  const Tensor cq = random(kHeadRows), ck = random(kHeadRows);
  const Tensor d_qkv = poisoned({kBatch, kTokens, 2 * kModel});
  ops().qk_norm_rope_bwd(d_qkv, cq, ck, qkv, qw, kw, pe, kHeads);
  expect_gradient(
      [&] {
        ops().qk_norm_rope(q, k, qkv, qw, kw, pe, kHeads);
        return dot(q, cq) + dot(k, ck);
      },
      qkv, d_qkv, "qkv");
}

TEST_F(Rope, BackwardTakesEveryLayoutAndLeavesV) {
  check({out({kBatch, kTokens, 2 * kModel}), in(kHeadRows), in(kHeadRows), in(kFused), in({kWidth}),
         in({kWidth}), whole(in({kTokens, kWidth / 2, 2}))},
        [&](const auto& a) {
          ops().qk_norm_rope_bwd(a[0], a[1], a[2], a[3], a[4], a[5], a[6], kHeads);
        });
  const Tensor d_qkv = random(kFused), before = copy_of(d_qkv);
  ops().qk_norm_rope_bwd(d_qkv, random(kHeadRows), random(kHeadRows), random(kFused),
                         random({kWidth}), random({kWidth}), random({kTokens, kWidth / 2, 2}),
                         kHeads);
  EXPECT_EQ(
      max_difference(d_qkv.columns(2 * kModel, kModel + 7), before.columns(2 * kModel, kModel + 7)),
      0);
}

}  // namespace
}  // namespace fluxlora::testing
