// SPDX-License-Identifier: Apache-2.0
// The norm of the gradients and AdamW.
#include "base/parallel.h"
#include "op_case.h"

namespace fluxlora::testing {
namespace {

using Optim = OpTest;
constexpr int64_t kCount = 20001;

TEST_F(Optim, GlobalNormIsTheFormula) {
  check_formula(
      {out({1}), in({kCount})}, [&](const auto& a) { ops().global_norm(a[0], a[1]); },
      [&](const auto& a) { at(a[0], 0, 0, 0) = std::sqrt(dot(a[1], a[1])); });
}

TEST_F(Optim, GlobalNormDoesNotDependOnTheThreadCount) {
  const Tensor g = random({kCount}), norm = poisoned({1});
  const int threads = thread_count();
  set_thread_count(1);
  ops().global_norm(norm, g);
  const double one = *norm.as<double>();
  set_thread_count(3);
  ops().global_norm(norm, g);
  set_thread_count(threads);
  EXPECT_EQ(*norm.as<double>(), one);
}

/// Ten steps of AdamW as flux-facts 7.10 writes it; p, m, v = a[0..2], gradients a[3].
void naive(const std::vector<Tensor>& a, const AdamWOptions& o) {
  for (int step = 1; step <= 10; ++step) {
    const double lr = 0.01 * step, norm = std::sqrt(dot(a[3], a[3]));
    const double clip = o.max_norm > 0 ? std::min(1.0, o.max_norm / norm) : 1;
    for (int64_t i = 0; i < a[0].size(); ++i) {
      double &p = at(a[0], 0, 0, i), &m = at(a[1], 0, 0, i), &v = at(a[2], 0, 0, i);
      const double g = clip * at(a[3], 0, 0, i);
      p *= 1 - lr * o.weight_decay;
      m = o.beta1 * m + (1 - o.beta1) * g;
      v = o.beta2 * v + (1 - o.beta2) * g * g;
      const double m_hat = m / (1 - std::pow(o.beta1, step));
      const double v_hat = v / (1 - std::pow(o.beta2, step));
      p -= lr * m_hat / (std::sqrt(v_hat) + o.eps);
      at(a[3], 0, 0, i) = std::cos(static_cast<double>(step * i));  // the next gradient
    }
  }
}

TEST_F(Optim, AdamWIsTheFormula) {
  for (const double max_norm : {0.0, 1.0, 1e6}) {
    const AdamWOptions o{
        .beta1 = 0.8, .beta2 = 0.99, .eps = 1e-7, .weight_decay = 0.1, .max_norm = max_norm};
    const Shape s{300};
    const auto mine = [&](const auto& a) {
      const DType dtype = a[0].dtype();
      ops().fill(a[1], 0);
      ops().fill(a[2], 0);
      const Tensor norm = poisoned({1}, dtype), scalars = poisoned({3}, dtype);
      for (int step = 1; step <= 10; ++step) {
        ops().global_norm(norm, a[3]);
        ops().fill(scalars.slice(0, 0, 1), 0.01 * step);
        ops().fill(scalars.slice(0, 1, 1), 1 - std::pow(o.beta1, step));
        ops().fill(scalars.slice(0, 2, 1), 1 - std::pow(o.beta2, step));
        ops().adamw_step(a[0], a[1], a[2], a[3], norm, scalars, o);
        for (int64_t i = 0; i < a[3].size(); ++i)
          ops().fill(a[3].slice(0, i, 1), std::cos(static_cast<double>(step * i)));
      }
    };
    check_formula({both(s), out(s), out(s), both(s)}, mine, [&](const auto& a) {
      ops().fill(a[1], 0);
      ops().fill(a[2], 0);
      naive(a, o);
    });
  }
}

}  // namespace
}  // namespace fluxlora::testing
