// SPDX-License-Identifier: Apache-2.0
// LayerNorm with modulation and the gated residual. Sums over tokens are taken in chunks of fixed
// length and combined in order, so they do not depend on the thread count.
#include <cmath>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/simd.h"
#include "ops/checks.h"

namespace fluxlora {
namespace {

constexpr double kEps = 1e-6;
constexpr int64_t kChunk = 32;  // tokens of one partial sum

/// Sums over tokens of up to two quantities of width D for each batch item.
template <typename T>
struct TokenSums {
  Tensor first, second;  // (B, D) or empty
  T* partial = nullptr;  // (B, chunks, 2, D)
  int64_t chunks = 0, width = 0;

  TokenSums(Scratch& scratch, const Rows<T>& rows, const Tensor& a, const Tensor& b)
      : first(a), second(b), chunks((rows.rows + kChunk - 1) / kChunk), width(rows.columns) {
    if (a || b) partial = scratch.shared<T>(0, rows.batches * chunks * 2 * width);
  }

  T* sum(int64_t batch, int64_t chunk, int which) const {
    if (!(which == 0 ? first : second)) return nullptr;
    return partial + ((batch * chunks + chunk) * 2 + which) * width;
  }

  /// Adds the partial sums of each item in order.
  void finish(int64_t batches) const {
    for (int which = 0; which < 2; ++which) {
      const Rows<T> out(which == 0 ? first : second);
      if (!out) continue;
      for (int64_t b = 0; b < batches; ++b) {
        std::copy_n(sum(b, 0, which), width, out.row(b));
        for (int64_t c = 1; c < chunks; ++c) {
          const T* const part = sum(b, c, which);
          T* const to = out.row(b);
          for (int64_t i = 0; i < width; ++i) to[i] += part[i];
        }
      }
    }
  }
};

/// Calls chunk(batch, chunk index, first token, last token) for all tokens.
template <typename T, typename F>
void for_token_chunks(const Rows<T>& rows, F&& chunk) {
  const int64_t chunks = (rows.rows + kChunk - 1) / kChunk;
  parallel_for(rows.batches * chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      chunk(i / chunks, i % chunks, i % chunks * kChunk,
            std::min(rows.rows, (i % chunks + 1) * kChunk));
  });
}

/// dst (+)= a b, or a alone where b is null.
template <typename T>
void add_products(T* dst, const T* a, const T* b, int64_t n, bool start) {
  for (int64_t i = 0; i < n; ++i) {
    const T value = b ? a[i] * b[i] : a[i];
    dst[i] = start ? value : dst[i] + value;
  }
}

}  // namespace

void CpuOps::ln_modulate(const Tensor& h, const Tensor& stats, const Tensor& x, const Tensor& shift,
                         const Tensor& scale) {
  checks::ln_modulate(h, stats, x, shift, scale);
  for_dtype(h.dtype(), [&]<typename T>(T) {
    const Rows<T> out(h), in(x), saved(stats), add(shift), factor(scale);
    const int64_t n = out.columns;
    parallel_for(out.total(), row_grain(n), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        T* const y = out.row(r);
        const T *const v = in.row(r), *const s = factor.row(r / out.rows),
                       *const b = add.row(r / out.rows);
        const T mean = sum_of<T>(n, [v](int64_t i) { return v[i]; }) / static_cast<T>(n);
        const T variance = sum_of<T>(n, [=](int64_t i) { return (v[i] - mean) * (v[i] - mean); }) /
                           static_cast<T>(n);
        const T inverse = T(1) / std::sqrt(variance + static_cast<T>(kEps));
        saved.row(r)[0] = mean;
        saved.row(r)[1] = inverse;
        for (int64_t i = 0; i < n; ++i)
          y[i] = multiply_add((v[i] - mean) * inverse, T(1) + s[i], b[i]);
      }
    });
  });
}

void CpuOps::ln_modulate_bwd(const Tensor& dx, const Tensor& d_shift, const Tensor& d_scale,
                             const Tensor& dh, const Tensor& x, const Tensor& stats,
                             const Tensor& scale, Grad mode) {
  checks::ln_modulate_bwd(dx, d_shift, d_scale, dh, x, stats, scale);
  for_dtype(dh.dtype(), [&]<typename T>(T) {
    const Rows<T> out(mode == Grad::ignore ? Tensor() : dx), g(dh), in(x), saved(stats),
        factor(scale);
    const TokenSums<T> sums(scratch_, g, d_shift, d_scale);
    const int64_t n = g.columns;
    const bool add = mode == Grad::accumulate;
    for_token_chunks(g, [&](int64_t b, int64_t chunk, int64_t first, int64_t last) {
      T *const shift_sum = sums.sum(b, chunk, 0), *const scale_sum = sums.sum(b, chunk, 1);
      const T* const s = factor.row(b);
      for (int64_t t = first; t < last; ++t) {
        const T *const d = g.row(b, t), *const v = in.row(b, t);
        const T mean = saved.row(b, t)[0], inverse = saved.row(b, t)[1];
        if (shift_sum) add_products<T>(shift_sum, d, nullptr, n, t == first);
        if (scale_sum)
          for (int64_t i = 0; i < n; ++i)
            scale_sum[i] = (t == first ? T(0) : scale_sum[i]) + d[i] * ((v[i] - mean) * inverse);
        if (!out) continue;
        // With g = dh (1 + scale): dx = (g - mean(g) - LN(x) mean(g LN(x))) / std.
        const T sum = sum_of<T>(n, [=](int64_t i) { return d[i] * (T(1) + s[i]); });
        const T dot =
            sum_of<T>(n, [=](int64_t i) { return d[i] * (T(1) + s[i]) * (v[i] - mean); }) * inverse;
        const T mean_g = sum / static_cast<T>(n), slope = dot * inverse / static_cast<T>(n);
        T* const y = out.row(b, t);
        for (int64_t i = 0; i < n; ++i) {
          const T value = (d[i] * (T(1) + s[i]) - mean_g - (v[i] - mean) * slope) * inverse;
          y[i] = add ? y[i] + value : value;
        }
      }
    });
    sums.finish(g.batches);
  });
}

void CpuOps::gate_add(const Tensor& x_out, const Tensor& x, const Tensor& y, const Tensor& gate) {
  checks::gate_add(x_out, x, y, gate);
  for_dtype(x_out.dtype(), [&]<typename T>(T) {
    const Rows<T> out(x_out), in(x), branch(y), factor(gate);
    const int64_t n = out.columns;
    parallel_for(out.total(), row_grain(n), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        T* const to = out.row(r);
        const T *const a = in.row(r), *const b = branch.row(r), *const f = factor.row(r / out.rows);
        for (int64_t i = 0; i < n; ++i) to[i] = multiply_add(f[i], b[i], a[i]);
      }
    });
  });
}

void CpuOps::gate_add_bwd(const Tensor& dy, const Tensor& d_gate, const Tensor& dx, const Tensor& y,
                          const Tensor& gate) {
  checks::gate_add_bwd(dy, d_gate, dx, y, gate);
  for_dtype(dx.dtype(), [&]<typename T>(T) {
    const Rows<T> out(dy), g(dx), branch(y), factor(gate);
    const TokenSums<T> sums(scratch_, g, d_gate, {});
    const int64_t n = g.columns;
    for_token_chunks(g, [&](int64_t b, int64_t chunk, int64_t first, int64_t last) {
      T* const gate_sum = sums.sum(b, chunk, 0);
      const T* const f = factor.row(b);
      for (int64_t t = first; t < last; ++t) {
        const T* const d = g.row(b, t);
        if (gate_sum) add_products<T>(gate_sum, d, branch.row(b, t), n, t == first);
        T* const to = out.row(b, t);
        for (int64_t i = 0; i < n; ++i) to[i] = f[i] * d[i];
      }
    });
    sums.finish(g.batches);
  });
}

}  // namespace fluxlora
