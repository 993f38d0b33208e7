// SPDX-License-Identifier: Apache-2.0
#include "lora/kron.h"

#include <algorithm>

namespace fluxlora::lora {
namespace {

/// LyCORIS' factorization(): (m, n) with m n = size, m <= n.
std::pair<int64_t, int64_t> factors_of(int64_t size, int64_t factor) {
  if (size % factor == 0) return {std::min(factor, size / factor), std::max(factor, size / factor)};
  int64_t m = 1, n = size;
  while (m < n) {
    int64_t next = m + 1;
    while (size % next != 0) ++next;
    if (next + size / next > m + n || next > factor) break;
    m = next;
    n = size / next;
  }
  return {std::min(m, n), std::max(m, n)};
}

Tensor column(const Tensor& matrix) {
  return matrix.reshaped({matrix.size(), 1});
}

/// Rows [i c, (i + 1) c) of B as (c R, b): their columns are (r, j).
Tensor block_row(const Tensor& B, const KronFactors& w, int64_t i) {
  const int64_t c = w.w2_a.dim(0);
  return B.slice(0, i * c, c).reshaped({w.w2_a.size(), w.w1.dim(1)});
}

/// The places of W2b (R, d) in A for column block j: rows r b + j, columns [j d, (j + 1) d).
Tensor diagonal_block(const Tensor& A, const KronFactors& w, int64_t j) {
  const int64_t R = w.w2_b.dim(0), d = w.w2_b.dim(1), b = w.w1.dim(1), in = A.dim(1);
  return A.reshaped({R, b * in}).columns(j * in + j * d, d);
}

}  // namespace

KronShape kron_shape(int64_t rows, int64_t in, int64_t factor, int64_t rank) {
  const auto [a, c] = factors_of(rows, factor);
  const auto [b, d] = factors_of(in, factor);
  return {a, b, c, d, rank};
}

void expand(Ops& op, const Tensor& A, const Tensor& B, const KronFactors& w) {
  for (int64_t j = 0; j < w.w1.dim(1); ++j) op.copy(diagonal_block(A, w, j), w.w2_b);
  for (int64_t i = 0; i < w.w1.dim(0); ++i)
    op.dense(block_row(B, w, i), column(w.w2_a), column(w.w1.slice(0, i, 1)), {}, Grad::overwrite);
}

void contract(Ops& op, const KronFactors& d, const Tensor& dA, const Tensor& dB,
              const KronFactors& w) {
  op.copy(d.w2_b, diagonal_block(dA, w, 0));
  for (int64_t j = 1; j < w.w1.dim(1); ++j) op.add_scaled(d.w2_b, diagonal_block(dA, w, j), 1);
  for (int64_t i = 0; i < w.w1.dim(0); ++i) {
    const Tensor block = block_row(dB, w, i);
    op.dense(column(d.w2_a), block, w.w1.slice(0, i, 1), {},
             i ? Grad::accumulate : Grad::overwrite);
    op.dense_dw(column(d.w1.slice(0, i, 1)), block, column(w.w2_a), {}, Grad::overwrite);
  }
}

}  // namespace fluxlora::lora
