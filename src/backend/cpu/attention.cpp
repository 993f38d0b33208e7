// SPDX-License-Identifier: Apache-2.0
// Attention by query chunks: a chunk's scores against all keys lie in the thread's scratch, so the
// S x S matrix never exists for long S. The backward recomputes the probabilities from lse.
#include <cmath>
#include <limits>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/simd.h"
#include "ops/checks.h"

namespace fluxlora {
namespace {

enum Slot : size_t { kScores = 0, kGrads = 1, kInverses = 2 };

/// Elements of a chunk of scores: they stay in the second-level cache unless there are many keys.
constexpr int64_t kChunkElements = 1 << 17;

/// Queries of one chunk: as few and as even chunks as the scratch allows, in multiples of 16. Each
/// chunk's products pack all keys and values again, so that fewer than 128 queries would not pay.
int64_t chunk_rows(int64_t tokens) {
  const int64_t most = std::max<int64_t>(128, kChunkElements / tokens);
  const int64_t chunks = (tokens + most - 1) / most;
  return ((tokens + chunks - 1) / chunks + 15) / 16 * 16;
}

/// One head of one item.
template <typename T>
struct Head {
  const T *q, *k, *v;
  const T* bias;  // (S, S) or null
  int64_t q_stride, k_stride, v_stride, bias_stride;
  int64_t width;
  T scale;
  bool causal;

  Head(const Rows<T>& q_, const Rows<T>& k_, const Rows<T>& v_, const AttentionOptions& o,
       int64_t batch, int64_t h)
      : width(q_.columns / o.heads), scale(static_cast<T>(o.scale)), causal(o.causal) {
    q = q_.row(batch, 0) + h * width;
    k = k_.row(batch, 0) + h * width;
    v = v_.row(batch, 0) + h * width;
    q_stride = q_.row_stride;
    k_stride = k_.row_stride;
    v_stride = v_.row_stride;
    bias = o.bias ? o.bias.as<const T>() + h * o.bias.stride(0) : nullptr;
    bias_stride = o.bias ? o.bias.stride(1) : 0;
  }

  /// scores (rows, keys) = scale q kᵀ + bias of queries [first, first + rows); what a causal query
  /// must not see becomes -infinity.
  void scores(T* s, int64_t first, int64_t rows, int64_t keys) const {
    gemm({rows, keys, width}, scale, plain<T>(q + first * q_stride, q_stride),
         transpose<T>(k, k_stride), T(0), s, keys);
    for (int64_t i = 0; bias && i < rows; ++i)
      for (int64_t j = 0; j < keys; ++j) s[i * keys + j] += bias[(first + i) * bias_stride + j];
    for (int64_t i = 0; causal && i < rows; ++i)
      std::fill(s + i * keys + std::min(keys, first + i + 1), s + (i + 1) * keys,
                -std::numeric_limits<T>::infinity());
  }
};

/// In place: e^(s - max), and one over its sum; returns log-sum-exp.
template <typename T>
T exponentials(T* s, int64_t n, T* inverse) {
  T top = s[0];
#pragma omp simd reduction(max : top)
  for (int64_t j = 0; j < n; ++j) top = s[j] > top ? s[j] : top;
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t j = 0; j < n; ++j) {
    s[j] = exp_of(s[j] - top);
    total += s[j];
  }
  *inverse = T(1) / total;
  return top + std::log(total);
}

}  // namespace

void CpuOps::attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                       const Tensor& v, const AttentionOptions& options) {
  checks::attention(out, lse, q, k, v, options);
  scratch_.prepare();
  for_dtype(out.dtype(), [&]<typename T>(T) {
    const Rows<T> o(out), qr(q), kr(k), vr(v);
    const int64_t tokens = qr.rows, width = qr.columns / options.heads;
    const int64_t chunk = chunk_rows(tokens), chunks = (tokens + chunk - 1) / chunk;
    parallel_for(qr.batches * options.heads * chunks, 1, [&](int64_t begin, int64_t end) {
      T* const s = scratch_.thread<T>(kScores, chunk * tokens);
      T* const inverses = scratch_.thread<T>(kInverses, chunk);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t batch = task / chunks / options.heads, h = task / chunks % options.heads;
        const int64_t first = task % chunks * chunk, rows = std::min(chunk, tokens - first);
        const int64_t keys = options.causal ? first + rows : tokens;
        const Head<T> head(qr, kr, vr, options, batch, h);
        head.scores(s, first, rows, keys);
        for (int64_t i = 0; i < rows; ++i) {
          const T log_sum = exponentials(s + i * keys, keys, &inverses[i]);
          if (lse) lse.as<T>()[batch * lse.stride(0) + h * lse.stride(1) + first + i] = log_sum;
        }
        T* const result = o.row(batch, first) + h * width;
        gemm({rows, width, keys}, T(1), plain<T>(s, keys), plain<T>(head.v, head.v_stride), T(0),
             result, o.row_stride);
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t e = 0; e < width; ++e) result[i * o.row_stride + e] *= inverses[i];
      }
    });
  });
}

namespace {

/// The backward of one head, chunk by chunk of queries; dk and dv gather the chunks in order.
template <typename T>
struct HeadBackward {
  Head<T> head;
  T *dq, *dk, *dv;
  const T *d_out, *out, *lse;
  int64_t dq_stride, dk_stride, dv_stride, d_out_stride, out_stride, tokens;

  void run(T* p, T* ds, int64_t chunk) const {
    const int64_t width = head.width;
    // The first chunk of queries meets every key, unless the mask hides some.
    for (int64_t j = 0; head.causal && j < tokens; ++j) {
      std::fill_n(dk + j * dk_stride, width, T(0));
      std::fill_n(dv + j * dv_stride, width, T(0));
    }
    for (int64_t first = 0; first < tokens; first += chunk) {
      const int64_t rows = std::min(chunk, tokens - first);
      const int64_t keys = head.causal ? first + rows : tokens;
      const T keep = first == 0 && !head.causal ? 0 : 1;
      const T* const g = d_out + first * d_out_stride;
      head.scores(p, first, rows, keys);
      gemm({rows, keys, width}, T(1), plain<T>(g, d_out_stride),
           transpose<T>(head.v, head.v_stride), T(0), ds, keys);  // d probabilities
      for (int64_t i = 0; i < rows; ++i) {
        const T *const gi = g + i * d_out_stride, *const oi = out + (first + i) * out_stride;
        const T delta = sum_of<T>(width, [=](int64_t e) { return gi[e] * oi[e]; });
        row(p + i * keys, ds + i * keys, keys, lse[first + i], delta);
      }
      gemm({keys, width, rows}, T(1), transpose<T>(p, keys), plain<T>(g, d_out_stride), keep, dv,
           dv_stride);
      gemm({keys, width, rows}, T(1), transpose<T>(ds, keys),
           plain<T>(head.q + first * head.q_stride, head.q_stride), keep, dk, dk_stride);
      gemm({rows, width, keys}, T(1), plain<T>(ds, keys), plain<T>(head.k, head.k_stride), T(0),
           dq + first * dq_stride, dq_stride);
    }
  }

  /// p = e^(s - lse); ds = scale p (dp - Σ_e d_out out), the gradient of q kᵀ.
  void row(T* p, T* ds, int64_t keys, T log_sum, T delta) const {
    const T scale = head.scale;
#pragma omp simd
    for (int64_t j = 0; j < keys; ++j) {
      p[j] = exp_of(p[j] - log_sum);
      ds[j] = scale * p[j] * (ds[j] - delta);
    }
  }
};

}  // namespace

void CpuOps::attention_bwd(const Tensor& dq, const Tensor& dk, const Tensor& dv,
                           const Tensor& d_out, const Tensor& out, const Tensor& lse,
                           const Tensor& q, const Tensor& k, const Tensor& v,
                           const AttentionOptions& options) {
  checks::attention_bwd(dq, dk, dv, d_out, out, lse, q, k, v, options);
  scratch_.prepare();
  for_dtype(out.dtype(), [&]<typename T>(T) {
    const Rows<T> qr(q), kr(k), vr(v), dqr(dq), dkr(dk), dvr(dv), g(d_out), o(out);
    const int64_t tokens = qr.rows, width = qr.columns / options.heads;
    const int64_t chunk = chunk_rows(tokens);
    parallel_for(qr.batches * options.heads, 1, [&](int64_t begin, int64_t end) {
      T* const p = scratch_.thread<T>(kScores, chunk * tokens);
      T* const ds = scratch_.thread<T>(kGrads, chunk * tokens);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t batch = task / options.heads, h = task % options.heads;
        const int64_t column = h * width;
        HeadBackward<T>{.head = Head<T>(qr, kr, vr, options, batch, h),
                        .dq = dqr.row(batch, 0) + column,
                        .dk = dkr.row(batch, 0) + column,
                        .dv = dvr.row(batch, 0) + column,
                        .d_out = g.row(batch, 0) + column,
                        .out = o.row(batch, 0) + column,
                        .lse = lse.as<const T>() + batch * lse.stride(0) + h * lse.stride(1),
                        .dq_stride = dqr.row_stride,
                        .dk_stride = dkr.row_stride,
                        .dv_stride = dvr.row_stride,
                        .d_out_stride = g.row_stride,
                        .out_stride = o.row_stride,
                        .tokens = tokens}
            .run(p, ds, chunk);
      }
    });
  });
}

}  // namespace fluxlora
