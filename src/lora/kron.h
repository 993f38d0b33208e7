// SPDX-License-Identifier: Apache-2.0
// LoKr (Yeh et al. 2024): the change of a layer is s W1 ⊗ (W2a W2b), which is that of a LoRA of
// rank R b with A = I ⊗ W2b and B = W1 ⊗ W2a. The layers know that LoRA alone; here it is made of
// the factors, and its gradients are led back to them.
#pragma once

#include "ops/ops.h"

namespace fluxlora::lora {

/// rows = a c, in = b d; a and b at most the factor asked for.
struct KronShape {
  int64_t a = 1, b = 1, c = 1, d = 1, R = 1;

  int64_t lora_rank() const { return R * b; }
};

/// The sizes that LyCORIS chooses: the largest divisors of rows and in that `factor` allows, with
/// the smaller of each pair in W1.
KronShape kron_shape(int64_t rows, int64_t in, int64_t factor, int64_t rank);

/// Contiguous, of trained parameters.
struct KronFactors {
  Tensor w1;    // (a, b)
  Tensor w2_a;  // (c, R)
  Tensor w2_b;  // (R, d)
};

/// A (R b, in) and B (rows, R b), contiguous; row and column r b + j belong together. A's zeros
/// stay as they are.
void expand(Ops& op, const Tensor& A, const Tensor& B, const KronFactors& w);

/// d (+)= the gradients that dA and dB mean for the factors; overwritten.
void contract(Ops& op, const KronFactors& d, const Tensor& dA, const Tensor& dB,
              const KronFactors& w);

}  // namespace fluxlora::lora
