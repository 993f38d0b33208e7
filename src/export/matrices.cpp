// SPDX-License-Identifier: Apache-2.0
#include "export/matrices.h"

#include <algorithm>
#include <cmath>

#include <cblas.h>

#include "base/error.h"
#include "base/parallel.h"
#include "base/philox.h"

// LAPACK, which OpenBLAS has in it; matrices by columns.
extern "C" {
void dgeqrf_(const int* m, const int* n, double* a, const int* lda, double* tau, double* work,
             const int* lwork, int* info);
void dorgqr_(const int* m, const int* n, const int* k, double* a, const int* lda, const double* tau,
             double* work, const int* lwork, int* info);
void dgesdd_(const char* jobz, const int* m, const int* n, double* a, const int* lda, double* s,
             double* u, const int* ldu, double* vt, const int* ldvt, double* work, const int* lwork,
             int* iwork, int* info);
}

namespace fluxlora::exporting {
namespace {

constexpr int64_t kBlock = 256;  // rows that one thread multiplies at a time

/// A matrix by columns.
struct Columns {
  int rows = 0, columns = 0;
  std::vector<double> values;

  Columns(int64_t m, int64_t n)
      : rows(static_cast<int>(m)),
        columns(static_cast<int>(n)),
        values(static_cast<size_t>(m * n)) {}
  double* at(int row, int column) { return &values[static_cast<size_t>(column) * rows + row]; }
  const double* data() const { return values.data(); }
};

void one_thread() {
  openblas_set_num_threads(1);  // the threads are parallel_for's
}

/// A tensor (m, n) as columns, or transposed: its rows as columns.
Columns columns_of(const Tensor& source, bool transposed) {
  HostTensor numbers(DType::f64, {source.dim(0), source.dim(1)});
  convert(DType::f64, numbers.view.data(), source.dtype(), source.data(), source.size());
  const int64_t m = source.dim(0), n = source.dim(1);
  Columns result = transposed ? Columns(n, m) : Columns(m, n);
  const double* from = numbers.view.as<double>();
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      result.values[static_cast<size_t>(transposed ? i * n + j : j * m + i)] = from[i * n + j];
  return result;
}

HostTensor rows_of(const Columns& source) {
  HostTensor result(DType::f32, {source.rows, source.columns});
  for (int i = 0; i < source.rows; ++i)
    for (int j = 0; j < source.columns; ++j)
      result.view.as<float>()[int64_t{i} * source.columns + j] =
          static_cast<float>(source.values[static_cast<size_t>(j) * source.rows + i]);
  return result;
}

/// m = q r: q (rows, k) orthonormal, r (k, columns) upper triangular, k the smaller side.
struct Orthogonal {
  Columns q, r;
};
Orthogonal orthogonal(Columns m) {
  const int rows = m.rows, columns = m.columns, k = std::min(rows, columns);
  std::vector<double> tau(static_cast<size_t>(k));
  const int length = std::max(1, 64 * columns);
  std::vector<double> work(static_cast<size_t>(length));
  int info = 0;
  dgeqrf_(&rows, &columns, m.values.data(), &rows, tau.data(), work.data(), &length, &info);
  CHECK(info == 0, "dgeqrf");
  Columns r(k, columns);
  for (int j = 0; j < columns; ++j)
    for (int i = 0; i <= std::min(j, k - 1); ++i) *r.at(i, j) = *m.at(i, j);
  dorgqr_(&rows, &k, &k, m.values.data(), &rows, tau.data(), work.data(), &length, &info);
  CHECK(info == 0, "dorgqr");
  m.columns = k;
  m.values.resize(static_cast<size_t>(rows) * k);
  return {std::move(m), std::move(r)};
}

/// The singular vectors of m: u (rows, k) and vt (k, columns), sigma falling.
struct Decomposition {
  Columns u, vt;
  std::vector<double> sigma;
};
Decomposition decompose(Columns m) {
  const int k = std::min(m.rows, m.columns);
  Decomposition d{Columns(m.rows, k), Columns(k, m.columns), std::vector<double>(size_t(k))};
  std::vector<int> integers(8 * static_cast<size_t>(k));
  double wanted = 0;
  int length = -1, info = 0;
  dgesdd_("S", &m.rows, &m.columns, m.values.data(), &m.rows, d.sigma.data(), d.u.values.data(),
          &m.rows, d.vt.values.data(), &k, &wanted, &length, integers.data(), &info);
  length = static_cast<int>(wanted);
  std::vector<double> work(static_cast<size_t>(std::max(1, length)));
  dgesdd_("S", &m.rows, &m.columns, m.values.data(), &m.rows, d.sigma.data(), d.u.values.data(),
          &m.rows, d.vt.values.data(), &k, work.data(), &length, integers.data(), &info);
  CHECK(info == 0, "dgesdd");
  return d;
}

/// x op(y), by columns.
Columns product(const Columns& x, const Columns& y, bool y_transposed, double scale = 1) {
  Columns result(x.rows, y_transposed ? y.rows : y.columns);
  cblas_dgemm(CblasColMajor, CblasNoTrans, y_transposed ? CblasTrans : CblasNoTrans, x.rows,
              result.columns, x.columns, scale, x.data(), x.rows, y.data(), y.rows, 0,
              result.values.data(), x.rows);
  return result;
}

Columns transposed(const Columns& m) {
  Columns result(m.columns, m.rows);
  for (int j = 0; j < m.columns; ++j)
    for (int i = 0; i < m.rows; ++i)
      *result.at(j, i) = m.values[static_cast<size_t>(j) * m.rows + i];
  return result;
}

/// matrixᵀ q for a contiguous f32 matrix (m, n) and q (m, l), as columns (n, l).
Columns transpose_times(const Tensor& matrix, const Columns& q) {
  const HostTensor right = rows_of(q);
  const int64_t m = matrix.dim(0), n = matrix.dim(1), l = q.columns;
  HostTensor result(DType::f32, {n, l});
  parallel_for(n, kBlock, [&](int64_t first, int64_t last) {
    for (int64_t j = first; j < last; j += kBlock)
      cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans,
                  static_cast<int>(std::min(kBlock, last - j)), static_cast<int>(l),
                  static_cast<int>(m), 1, matrix.as<float>() + j, static_cast<int>(n),
                  right.view.as<float>(), static_cast<int>(l), 0, result.view.as<float>() + j * l,
                  static_cast<int>(l));
  });
  return columns_of(result.view, false);
}

Columns times(const Tensor& matrix, const Columns& q) {
  const HostTensor right = rows_of(q);
  HostTensor result(DType::f32, {matrix.dim(0), q.columns});
  multiply(result.view, matrix, right.view, 1);
  return columns_of(result.view, false);
}

double squared_norm(const Tensor& matrix) {
  double sum = 0;
  for (int64_t i = 0; i < matrix.size(); ++i)
    sum += double{matrix.as<float>()[i]} * matrix.as<float>()[i];
  return sum;
}

}  // namespace

void multiply(const Tensor& c, const Tensor& a, const Tensor& b, float scale) {
  const int64_t m = c.dim(0), n = c.dim(1), k = a.dim(1);
  CHECK(a.dim(0) == m && b.dim(0) == k && b.dim(1) == n,
        "multiply: " + a.describe() + " by " + b.describe());
  one_thread();
  parallel_for(m, kBlock, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i += kBlock) {
      const int64_t rows = std::min(kBlock, last - i);
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(rows),
                  static_cast<int>(n), static_cast<int>(k), scale, a.as<float>() + i * k,
                  static_cast<int>(k), b.as<float>(), static_cast<int>(n), 0, c.as<float>() + i * n,
                  static_cast<int>(n));
    }
  });
}

HostTensor orthonormal(const Tensor& m) {
  one_thread();
  return rows_of(orthogonal(columns_of(m, false)).q);
}

double Spectrum::kept(int64_t rank) const {
  if (energy <= 0) return 1;
  double sum = 0;
  for (int64_t k = 0; k < std::min<int64_t>(rank, static_cast<int64_t>(sigma.size())); ++k)
    sum += sigma[static_cast<size_t>(k)] * sigma[static_cast<size_t>(k)];
  return std::min(sum / energy, 1.0);
}

int64_t Spectrum::rank_for(double part, int64_t most) const {
  const int64_t all = std::min(most, static_cast<int64_t>(sigma.size()));
  for (int64_t rank = 1; rank < all; ++rank)
    if (kept(rank) >= part) return rank;
  return std::max<int64_t>(1, all);
}

Spectrum spectrum_of_product(const Tensor& b, const Tensor& a, double scale) {
  one_thread();
  const Orthogonal left = orthogonal(columns_of(b, false));
  const Orthogonal right = orthogonal(columns_of(a, true));
  const Decomposition core = decompose(product(left.r, right.r, /*y_transposed=*/true, scale));
  Spectrum result{b.dim(0), a.dim(1), core.sigma, {}, {}, 0};
  result.u = product(left.q, core.u, false).values;
  result.v = product(right.q, transposed(core.vt), false).values;
  for (const double s : core.sigma) result.energy += s * s;
  return result;
}

Spectrum spectrum_of(const Tensor& matrix, int64_t rank) {
  constexpr int64_t kMore = 16;
  constexpr int kRounds = 2;
  one_thread();
  const int64_t m = matrix.dim(0), n = matrix.dim(1);
  const int64_t l = std::min({rank + kMore, m, n});
  Columns start(n, l);
  Philox random(0, Draw::init, 0);
  for (double& value : start.values) value = random.normal();
  Columns q = orthogonal(times(matrix, start)).q;
  for (int round = 0; round < kRounds; ++round) {
    const Columns z = orthogonal(transpose_times(matrix, q)).q;
    q = orthogonal(times(matrix, z)).q;
  }
  // M ≈ q (qᵀ M); the small factor is decomposed as (Mᵀ q) = u s vᵀ, whose u are M's right vectors.
  const Decomposition d = decompose(transpose_times(matrix, q));
  Spectrum result{m, n, d.sigma, {}, d.u.values, squared_norm(matrix)};
  result.u = product(q, transposed(d.vt), false).values;
  return result;
}

Factors factors_of(const Spectrum& s, int64_t rank, DType dtype) {
  HostTensor a(DType::f64, {rank, s.in}), b(DType::f64, {s.rows, rank});
  for (int64_t k = 0; k < rank; ++k) {
    const double root = std::sqrt(s.sigma[static_cast<size_t>(k)]);
    for (int64_t i = 0; i < s.in; ++i)
      a.view.as<double>()[k * s.in + i] = root * s.v[static_cast<size_t>(k * s.in + i)];
    for (int64_t i = 0; i < s.rows; ++i)
      b.view.as<double>()[i * rank + k] = root * s.u[static_cast<size_t>(k * s.rows + i)];
  }
  Factors result{HostTensor(dtype, {rank, s.in}), HostTensor(dtype, {s.rows, rank})};
  convert(dtype, result.A.view.data(), DType::f64, a.view.data(), a.view.size());
  convert(dtype, result.B.view.data(), DType::f64, b.view.data(), b.view.size());
  return result;
}

}  // namespace fluxlora::exporting
