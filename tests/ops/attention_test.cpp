// SPDX-License-Identifier: Apache-2.0
// Attention: plain, causal, with bias, short and longer than one chunk of queries.
#include "op_case.h"

namespace fluxlora::testing {
namespace {

using Attention = OpTest;

/// out, lse, q, k, v as a[0..4] by loops.
void naive(const std::vector<Tensor>& a, const AttentionOptions& o) {
  const Tensor &q = a[2], &k = a[3], &v = a[4];
  const int64_t tokens = q.dim(1), width = q.dim(2) / o.heads;
  std::vector<double> p(static_cast<size_t>(tokens));
  for (int64_t b = 0; b < q.dim(0); ++b)
    for (int64_t h = 0; h < o.heads; ++h)
      for (int64_t i = 0; i < tokens; ++i) {
        const int64_t keys = o.causal ? i + 1 : tokens;
        double sum = 0;
        for (int64_t j = 0; j < keys; ++j) {
          double score = 0;
          for (int64_t e = h * width; e < (h + 1) * width; ++e)
            score += o.scale * at(q, b, i, e) * at(k, b, j, e);
          if (o.bias) score += at(o.bias, h, i, j);
          sum += p[static_cast<size_t>(j)] = std::exp(score);
        }
        at(a[1], b, h, i) = std::log(sum);
        for (int64_t e = h * width; e < (h + 1) * width; ++e) {
          double value = 0;
          for (int64_t j = 0; j < keys; ++j)
            value += p[static_cast<size_t>(j)] / sum * at(v, b, j, e);
          at(a[0], b, i, e) = value;
        }
      }
}

TEST_F(Attention, IsTheFormula) {
  for (const auto& [tokens, heads, width] :
       {std::tuple<int64_t, int64_t, int64_t>{9, 3, 5}, {1, 1, 4}, {130, 2, 8}, {520, 1, 3}}) {
    for (const bool causal : {false, true}) {
      const AttentionOptions o{.heads = heads, .scale = 0.4, .causal = causal};
      const Shape s{2, tokens, heads * width};
      check_formula(
          {out(s), out({2, heads, tokens}), in(s), in(s), in(s)},
          [&](const auto& a) { ops().attention(a[0], a[1], a[2], a[3], a[4], o); },
          [&](const auto& a) { naive(a, o); });
    }
  }
}

TEST_F(Attention, AddsABias) {
  const Shape s{2, 21, 12};
  const auto with_bias = [](const auto& a, bool causal) {
    return AttentionOptions{.heads = 3, .scale = 1, .causal = causal, .bias = a[5]};
  };
  for (const bool causal : {false, true})
    check_formula(
        {out(s), out({2, 3, 21}), in(s), in(s), in(s), in({3, 21, 21})},
        [&](const auto& a) { ops().attention(a[0], a[1], a[2], a[3], a[4], with_bias(a, causal)); },
        [&](const auto& a) { naive(a, with_bias(a, causal)); });
}

TEST_F(Attention, HoldsForLargeScores) {
  const Shape s{1, 40, 8};
  const AttentionOptions o{.heads = 1, .scale = 1};
  check(
      {out(s), out({1, 1, 40}), in(s, 10), in(s, 10), in(s)},
      [&](const auto& a) { ops().attention(a[0], a[1], a[2], a[3], a[4], o); }, 1e-4);
}

TEST_F(Attention, NeedsNoLse) {
  const Shape s{1, 10, 8};
  const Tensor q = random(s), k = random(s), v = random(s), a = poisoned(s), b = poisoned(s);
  ops().attention(a, poisoned({1, 2, 10}), q, k, v, {.heads = 2});
  ops().attention(b, {}, q, k, v, {.heads = 2});
  EXPECT_EQ(max_difference(a, b), 0);
}

TEST_F(Attention, HasItsGradients) {
  for (const int64_t tokens : {int64_t{13}, int64_t{400}})  // 400: two chunks of queries
    for (const bool causal : {false, true}) {
      const Shape s{2, tokens, 10};
      const AttentionOptions o{.heads = 2,
                               .scale = 0.7,
                               .causal = causal,
                               .bias = causal ? random({2, tokens, tokens}) : Tensor{}};
      const Tensor q = random(s), k = random(s), v = random(s), c = random(s);
      const Tensor y = poisoned(s), lse = poisoned({2, 2, tokens});
      const Tensor dq = poisoned(s), dk = poisoned(s), dv = poisoned(s);
      const auto loss = [&] { return ops().attention(y, lse, q, k, v, o), dot(y, c); };
      loss();
      ops().attention_bwd(dq, dk, dv, c, y, lse, q, k, v, o);
      expect_gradient(loss, q, dq, "q");
      expect_gradient(loss, k, dk, "k");
      expect_gradient(loss, v, dv, "v");
    }
}

TEST_F(Attention, BackwardTakesEveryLayout) {
  const Shape s{2, 33, 12};
  const AttentionOptions o{.heads = 3, .scale = 0.5};
  check({out(s), out(s), out(s), out(s), out({2, 3, 33}), in(s), in(s), in(s), in(s)},
        [&](const auto& a) {
          ops().attention(a[3], a[4], a[6], a[7], a[8], o);
          ops().attention_bwd(a[0], a[1], a[2], a[5], a[3], a[4], a[6], a[7], a[8], o);
        });
}

}  // namespace
}  // namespace fluxlora::testing
