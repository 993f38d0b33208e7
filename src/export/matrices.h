// SPDX-License-Identifier: Apache-2.0
// Linear algebra on the host for LoRA files.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/buffer.h"

namespace fluxlora::exporting {

/// c (m, n) = scale a (m, k) b (k, n), all contiguous f32. Rows are cut into pieces of one size, so
/// that the result does not depend on the number of threads.
void multiply(const Tensor& c, const Tensor& a, const Tensor& b, float scale);

/// An orthonormal basis of m's columns, m (rows, k) f32 with k <= rows: the Q of its QR factors.
HostTensor orthonormal(const Tensor& m);

/// The singular values and vectors of a matrix M (rows, in), or its largest ones:
/// M ≈ Σ_k sigma[k] u_k v_kᵀ, sigma falling.
struct Spectrum {
  int64_t rows = 0, in = 0;
  std::vector<double> sigma;
  std::vector<double> u, v;  ///< u_k at u[k rows], v_k at v[k in]
  double energy = 0;         ///< |M|²: the sum of the squares of all singular values

  /// |M_rank|² / |M|² for the first `rank` values; 1 for M = 0.
  double kept(int64_t rank) const;
  /// The least rank, at most `most`, that keeps `energy` of |M|²; at least 1.
  int64_t rank_for(double energy, int64_t most) const;
};

/// Of scale b a, b (rows, r) and a (r, in) of any floating type: exact, from the QR factors of
/// both.
Spectrum spectrum_of_product(const Tensor& b, const Tensor& a, double scale);

/// The `rank` largest of a whole matrix (f32, contiguous), by random projections: 16 more of them
/// than asked for, and two rounds of power iteration (Halko, Martinsson, Tropp 2011, algorithm
/// 4.4), so that what it misses is known: 1 - kept(rank). Exact where the matrix is small.
Spectrum spectrum_of(const Tensor& matrix, int64_t rank);

/// B (rows, rank) and A (rank, in) of `dtype` with B A = Σ_{k < rank} sigma[k] u_k v_kᵀ; the roots
/// of the singular values go into both.
struct Factors {
  HostTensor A, B;
};
Factors factors_of(const Spectrum& spectrum, int64_t rank, DType dtype);

}  // namespace fluxlora::exporting
