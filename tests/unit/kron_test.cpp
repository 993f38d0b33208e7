// SPDX-License-Identifier: Apache-2.0
// LoKr as the LoRA that it is: against the Kronecker product itself, and its gradients against
// differences.
#include "lora/kron.h"

#include <vector>

#include <gtest/gtest.h>

#include "base/philox.h"
#include "ops/device.h"
#include "tensor/buffer.h"

namespace fluxlora::lora {
namespace {

class Kron : public ::testing::Test {
 protected:
  HostTensor random(int64_t rows, int64_t columns) {
    HostTensor t(DType::f64, {rows, columns});
    for (int64_t i = 0; i < t.view.size(); ++i) t.view.as<double>()[i] = random_.normal();
    return t;
  }
  static double at(const HostTensor& t, int64_t i, int64_t j) {
    return t.view.as<double>()[i * t.view.dim(1) + j];
  }

  Philox random_{3, Draw::init};
  std::unique_ptr<Device> device_ = open_device("cpu");
  KronShape k_ = kron_shape(12, 20, 4, 3);
  HostTensor w1_ = random(k_.a, k_.b), w2_a_ = random(k_.c, k_.R), w2_b_ = random(k_.R, k_.d);
  KronFactors w_{w1_.view, w2_a_.view, w2_b_.view};
};

// What LyCORIS' factorization() gives.
TEST_F(Kron, SizesAreLyCORIS) {
  const auto sides = [](int64_t size, int64_t factor) {
    const KronShape k = kron_shape(size, size, factor, 1);
    return std::pair(k.a, k.c);
  };
  EXPECT_EQ(sides(128, 8), std::pair(int64_t{8}, int64_t{16}));
  EXPECT_EQ(sides(360, 4), std::pair(int64_t{4}, int64_t{90}));
  EXPECT_EQ(sides(250, 4), std::pair(int64_t{2}, int64_t{125}));
  EXPECT_EQ(sides(127, 8), std::pair(int64_t{1}, int64_t{127}));
  EXPECT_EQ(sides(12, 8), std::pair(int64_t{3}, int64_t{4}));
}

TEST_F(Kron, ProductIsTheKroneckerProduct) {
  HostTensor A(DType::f64, {k_.lora_rank(), 20}), B(DType::f64, {12, k_.lora_rank()});
  device_->ops().fill(A.view, 0);
  expand(device_->ops(), A.view, B.view, w_);
  for (int64_t row = 0; row < 12; ++row)
    for (int64_t column = 0; column < 20; ++column) {
      double w2 = 0, product = 0;
      for (int64_t r = 0; r < k_.R; ++r)
        w2 += at(w2_a_, row % k_.c, r) * at(w2_b_, r, column % k_.d);
      for (int64_t n = 0; n < k_.lora_rank(); ++n) product += at(B, row, n) * at(A, n, column);
      EXPECT_NEAR(product, at(w1_, row / k_.c, column / k_.d) * w2, 1e-12);
    }
}

/// <dA, A> + <dB, B> is linear in A and B, so central differences are exact but for rounding.
TEST_F(Kron, GradientsAreTheDerivatives) {
  HostTensor A(DType::f64, {k_.lora_rank(), 20}), B(DType::f64, {12, k_.lora_rank()});
  const HostTensor dA = random(k_.lora_rank(), 20), dB = random(12, k_.lora_rank());
  device_->ops().fill(A.view, 0);
  const auto loss = [&] {
    expand(device_->ops(), A.view, B.view, w_);
    double sum = 0;
    for (int64_t i = 0; i < A.view.size(); ++i)
      sum += A.view.as<double>()[i] * dA.view.as<double>()[i];
    for (int64_t i = 0; i < B.view.size(); ++i)
      sum += B.view.as<double>()[i] * dB.view.as<double>()[i];
    return sum;
  };
  HostTensor d1 = random(k_.a, k_.b), d2a = random(k_.c, k_.R), d2b = random(k_.R, k_.d);
  contract(device_->ops(), {d1.view, d2a.view, d2b.view}, dA.view, dB.view, w_);
  const std::pair<const HostTensor*, const HostTensor*> sides[] = {
      {&w1_, &d1}, {&w2_a_, &d2a}, {&w2_b_, &d2b}};
  for (const auto& [x, d] : sides)
    for (int64_t i = 0; i < x->view.size(); ++i) {
      double& value = x->view.as<double>()[i];
      const double start = value;
      value = start + 0.5;
      const double above = loss();
      value = start - 0.5;
      const double below = loss();
      value = start;
      EXPECT_NEAR(above - below, d->view.as<double>()[i], 1e-11);
    }
}

}  // namespace
}  // namespace fluxlora::lora
