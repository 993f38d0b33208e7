// SPDX-License-Identifier: Apache-2.0
// Matrix products over rows views. Threads split the rows, or the columns where rows are few;
// weights of another element type are converted panel by panel.
#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/rows.h"
#include "ops/checks.h"
#include "tensor/quantise.h"

namespace fluxlora {
namespace {

enum Slot : size_t { kPanel = 0, kBias = 1, kGatherX = 2, kGatherY = 3 };

/// Multiply-adds below which waking the other threads costs more than it gains.
constexpr int64_t kWorthThreads = 1 << 17;

/// y = alpha x B + beta y + bias, where B is (k, n) and rows of y and x correspond.
template <typename T>
struct RowProduct {
  Scratch& scratch;
  Rows<T> y, x;
  Matrix<T> b;
  T alpha = 1, beta = 0;    // beta is 0 or 1
  const T* bias = nullptr;  // (n) or null

  int64_t n() const { return y.columns; }
  int64_t k() const { return x.columns; }

  void run() const {
    scratch.prepare();
    const int64_t rows = y.total();
    const bool small = rows * n() * k() < kWorthThreads;
    if (rows >= n() || rows >= kManyRows * thread_count()) {
      parallel_for(rows, small ? rows : 8,
                   [&](int64_t first, int64_t last) { piece(first, last, 0, n()); });
    } else {
      parallel_for(n(), small ? n() : 16,
                   [&](int64_t first, int64_t last) { piece(0, rows, first, last); });
    }
  }

 private:
  /// Rows that keep a thread busy beside the packing of B, which splitting by columns would share.
  static constexpr int64_t kManyRows = 128;
  /// From this width on it pays to gather rows that have no single stride: the product is then one.
  static constexpr int64_t kGatherWidth = 64;

  /// Rows [r0, r1) and columns [n0, n1).
  void piece(int64_t r0, int64_t r1, int64_t n0, int64_t n1) const {
    if ((y.uniform && x.uniform) || r0 / y.rows == (r1 - 1) / y.rows)
      return block(y.row(r0), y.row_stride, x.row(r0), x.row_stride, {r1 - r0, n0, n1});
    if (std::min(n(), k()) >= kGatherWidth) return gathered(r0, r1, n0, n1);
    while (r0 < r1) {
      const int64_t end = std::min(r1, (r0 / y.rows + 1) * y.rows);
      block(y.row(r0), y.row_stride, x.row(r0), x.row_stride, {end - r0, n0, n1});
      r0 = end;
    }
  }

  /// The same through contiguous copies of whichever side is not uniform.
  void gathered(int64_t r0, int64_t r1, int64_t n0, int64_t n1) const {
    const int64_t rows = r1 - r0, width = n1 - n0;
    const T* in = x.row(r0);
    if (!x.uniform) {
      T* const copy = scratch.thread<T>(kGatherX, rows * k());
      for (int64_t r = 0; r < rows; ++r) std::copy_n(x.row(r0 + r), k(), copy + r * k());
      in = copy;
    }
    const int64_t in_stride = x.uniform ? x.row_stride : k();
    if (y.uniform) return block(y.row(r0), y.row_stride, in, in_stride, {rows, n0, n1});
    T* const product = scratch.thread<T>(kGatherY, rows * width);
    gemm({rows, width, k()}, alpha, plain<T>(in, in_stride), columns_of_b(n0), T(0), product,
         width);
    for (int64_t r = 0; r < rows; ++r) {
      T* const to = y.row(r0 + r) + n0;
      const T* const from = product + r * width;
      if (beta != 0)
        for (int64_t i = 0; i < width; ++i) to[i] += from[i];
      else
        std::copy_n(from, width, to);
      if (bias)
        for (int64_t i = 0; i < width; ++i) to[i] += bias[n0 + i];
    }
  }

  struct Extent {
    int64_t rows, n0, n1;
  };
  void block(T* out, int64_t out_stride, const T* in, int64_t in_stride, Extent e) const {
    gemm({e.rows, e.n1 - e.n0, k()}, alpha, plain<T>(in, in_stride), columns_of_b(e.n0), beta,
         out + e.n0, out_stride);
    if (!bias) return;
    for (int64_t r = 0; r < e.rows; ++r) {
      T* const to = out + r * out_stride;
      for (int64_t i = e.n0; i < e.n1; ++i) to[i] += bias[i];
    }
  }

  /// B from column n0 on.
  Matrix<T> columns_of_b(int64_t n0) const {
    Matrix<T> part = b;
    part.data += b.transposed ? n0 * b.stride : n0;
    return part;
  }
};

/// Calls use(values, stride, first_row, rows) for the whole weight, or for converted panels of it.
template <typename T, typename F>
void for_panels(Scratch& scratch, const Weight& w, F&& use) {
  const Tensor& v = w.values;
  const auto same = sizeof(T) == 4 ? DType::f32 : DType::f64;
  if (v.dtype() == same) return use(v.as<const T>(), v.stride(0), int64_t{0}, w.out());
  const int64_t panel = std::clamp<int64_t>((1 << 20) / w.in(), 1, w.out());
  T* const values = scratch.shared<T>(kPanel, panel * w.in());
  for (int64_t first = 0; first < w.out(); first += panel) {
    const int64_t rows = std::min(panel, w.out() - first);
    parallel_for(rows, row_grain(w.in()), [&](int64_t r0, int64_t r1) {
      for (int64_t r = r0; r < r1; ++r) read_row(same, values + r * w.in(), w, first + r);
    });
    use(static_cast<const T*>(values), w.in(), first, rows);
  }
}

/// A bias in the element type of the activations.
template <typename T>
const T* bias_values(Scratch& scratch, const Tensor& bias) {
  const auto same = sizeof(T) == 4 ? DType::f32 : DType::f64;
  if (!bias || bias.dtype() == same) return bias.as<const T>();
  T* const values = scratch.shared<T>(kBias, bias.size());
  convert(same, values, bias.dtype(), bias.data(), bias.size());
  return values;
}

double value_of(const Scale& scale) {
  return scale.value * (scale.factor ? double{*scale.factor.as<const float>()} : 1.0);
}

Tensor last_columns(const Tensor& x, int64_t first, int64_t count) {
  return x.slice(x.rank() - 1, first, count);
}

}  // namespace

void CpuOps::linear(const Tensor& y, const Tensor& x, const Weight& w, const Tensor& bias,
                    Grad mode) {
  if (mode == Grad::ignore) return;
  checks::linear(y, x, w, bias);
  for_dtype(y.dtype(), [&]<typename T>(T) {
    const T* const b = bias_values<T>(scratch_, bias);
    for_panels<T>(scratch_, w, [&](const T* values, int64_t stride, int64_t first, int64_t rows) {
      RowProduct<T>{.scratch = scratch_,
                    .y = Rows<T>(last_columns(y, first, rows)),
                    .x = Rows<T>(x),
                    .b = transpose(values, stride),
                    .beta = mode == Grad::accumulate ? T(1) : T(0),
                    .bias = b ? b + first : nullptr}
          .run();
    });
  });
}

void CpuOps::linear_dx(const Tensor& dx, const Tensor& dy, const Weight& w, Grad mode) {
  if (mode == Grad::ignore) return;
  checks::linear(dy, dx, w, {});
  for_dtype(dx.dtype(), [&]<typename T>(T) {
    for_panels<T>(scratch_, w, [&](const T* values, int64_t stride, int64_t first, int64_t rows) {
      RowProduct<T>{.scratch = scratch_,
                    .y = Rows<T>(dx),
                    .x = Rows<T>(last_columns(dy, first, rows)),
                    .b = plain(values, stride),
                    .beta = mode == Grad::accumulate || first > 0 ? T(1) : T(0)}
          .run();
    });
  });
}

void CpuOps::dense(const Tensor& y, const Tensor& x, const Tensor& a, const Scale& scale,
                   Grad mode) {
  if (mode == Grad::ignore) return;
  checks::dense("dense", y, x, a);
  const double alpha = value_of(scale);
  if (alpha == 0) return mode == Grad::overwrite ? fill(y, 0) : void();
  for_dtype(y.dtype(), [&]<typename T>(T) {
    RowProduct<T>{.scratch = scratch_,
                  .y = Rows<T>(y),
                  .x = Rows<T>(x),
                  .b = transpose(a.as<const T>(), a.stride(0)),
                  .alpha = static_cast<T>(alpha),
                  .beta = mode == Grad::accumulate ? T(1) : T(0)}
        .run();
  });
}

void CpuOps::dense_dx(const Tensor& dx, const Tensor& dy, const Tensor& a, const Scale& scale,
                      Grad mode) {
  if (mode == Grad::ignore) return;
  checks::dense("dense_dx", dy, dx, a);
  const double alpha = value_of(scale);
  if (alpha == 0) return mode == Grad::overwrite ? fill(dx, 0) : void();
  for_dtype(dx.dtype(), [&]<typename T>(T) {
    RowProduct<T>{.scratch = scratch_,
                  .y = Rows<T>(dx),
                  .x = Rows<T>(dy),
                  .b = plain(a.as<const T>(), a.stride(0)),
                  .alpha = static_cast<T>(alpha),
                  .beta = mode == Grad::accumulate ? T(1) : T(0)}
        .run();
  });
}

void CpuOps::dense_dw(const Tensor& da, const Tensor& dy, const Tensor& x, const Scale& scale,
                      Grad mode) {
  if (mode == Grad::ignore) return;
  checks::dense("dense_dw", dy, x, da);
  const double alpha = value_of(scale);
  if (alpha == 0) return mode == Grad::overwrite ? fill(da, 0) : void();
  for_dtype(da.dtype(), [&]<typename T>(T) {
    const Rows<T> g(dy), in(x);
    T* const out = da.as<T>();
    const int64_t stride = da.stride(0), m = g.columns, n = in.columns;
    const bool uniform = g.uniform && in.uniform;
    const int64_t batches = uniform ? 1 : g.batches, rows = uniform ? g.total() : g.rows;
    // Columns [n0, n1) of rows [m0, m1) of da, summed over the batch items in order.
    const auto piece = [&](int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
      for (int64_t b = 0; b < batches; ++b)
        gemm({m1 - m0, n1 - n0, rows}, static_cast<T>(alpha),
             transpose<T>(g.row(b, 0) + m0, g.row_stride),
             plain<T>(in.row(b, 0) + n0, in.row_stride),
             b > 0 || mode == Grad::accumulate ? T(1) : T(0), out + m0 * stride + n0, stride);
    };
    const bool small = m * n * g.total() < kWorthThreads;
    if (m >= n)
      parallel_for(m, small ? m : 8, [&](int64_t m0, int64_t m1) { piece(m0, m1, 0, n); });
    else
      parallel_for(n, small ? n : 8, [&](int64_t n0, int64_t n1) { piece(0, m, n0, n1); });
  });
}

}  // namespace fluxlora
