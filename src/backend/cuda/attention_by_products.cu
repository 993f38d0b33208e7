// SPDX-License-Identifier: Apache-2.0
// Attention without cuDNN, by chunks of queries over all heads of an item.
#include <cmath>

#include "backend/cuda/attention.h"
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/rows.cuh"

namespace fluxlora::cuda {
namespace {

/// Scores of a chunk: 64 MiB of f32.
constexpr int64_t kChunkElements = int64_t{1} << 24;
constexpr int kThreads = 256;

/// Queries [first, first + rows) of one item against keys [0, keys). Scores lie (H, rows, pitch).
struct Chunk {
  int64_t item, first, rows, keys, pitch;
  int64_t heads, width;
  bool causal;

  __host__ __device__ int64_t row_at(int64_t head, int64_t row) const {
    return (head * rows + row) * pitch;
  }
  /// Keys that query `first + row` sees.
  __device__ int64_t seen(int64_t row) const {
    return causal && first + row + 1 < keys ? first + row + 1 : keys;
  }
};

template <typename T>
struct Bias {
  const T* data = nullptr;
  int64_t head_stride = 0, row_stride = 0;

  explicit Bias(const Tensor& bias) {
    if (!bias) return;
    data = bias.as<const T>();
    head_stride = bias.stride(0);
    row_stride = bias.stride(1);
  }
  __device__ float at(const Chunk& c, int64_t head, int64_t row, int64_t key) const {
    return data ? to_float(data[head * head_stride + (c.first + row) * row_stride + key]) : 0.0f;
  }
};

__device__ __forceinline__ float block_max(float x) {
  __shared__ float partial[kWarp];
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, distance));
  __syncthreads();
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = partial[0];
  for (int w = 1; w < kThreads / kWarp; ++w) x = fmaxf(x, partial[w]);
  return x;
}

/// p = softmax(scores + bias) a row a block; lse (H, rows of the whole item). p may be scores.
template <typename T>
__global__ void softmax_kernel(T* p, const float* scores, float* lse, int64_t lse_head_stride,
                               Bias<T> bias, Chunk c) {
  const int64_t row = blockIdx.x, head = blockIdx.y, seen = c.seen(row);
  const float* const s = scores + c.row_at(head, row);
  T* const to = p + c.row_at(head, row);
  float top = -INFINITY;
  for (int64_t j = threadIdx.x; j < seen; j += kThreads)
    top = fmaxf(top, s[j] + bias.at(c, head, row, j));
  top = block_max(top);
  float sum[1] = {0};
  for (int64_t j = threadIdx.x; j < seen; j += kThreads)
    sum[0] += __expf(s[j] + bias.at(c, head, row, j) - top);
  block_sum(sum);
  const float inverse = 1.0f / sum[0];
  for (int64_t j = threadIdx.x; j < c.keys; j += kThreads)
    to[j] = from_float<T>(j < seen ? __expf(s[j] + bias.at(c, head, row, j) - top) * inverse : 0);
  if (lse && threadIdx.x == 0) lse[head * lse_head_stride + c.first + row] = top + logf(sum[0]);
}

template <typename T>
struct Backward {
  T *p, *ds;
  const float *scores, *dp, *lse;
  int64_t lse_head_stride;
  Rows<const T> out, d_out;
  float scale;
};

/// p = e^(scores + bias - lse), ds = scale p (dp - Σ d_out out). p may be scores, ds may be dp.
template <typename T>
__global__ void softmax_bwd_kernel(Backward<T> t, Bias<T> bias, Chunk c) {
  const int64_t row = blockIdx.x, head = blockIdx.y, seen = c.seen(row);
  const T* const o = t.out.row(c.item, c.first + row) + head * c.width;
  const T* const g = t.d_out.row(c.item, c.first + row) + head * c.width;
  float delta[1] = {0};
  for (int64_t e = threadIdx.x; e < c.width; e += kThreads)
    delta[0] = fmaf(to_float(o[e]), to_float(g[e]), delta[0]);
  block_sum(delta);
  const float lse = t.lse[head * t.lse_head_stride + c.first + row];
  const int64_t at = c.row_at(head, row);
  for (int64_t j = threadIdx.x; j < c.keys; j += kThreads) {
    const float p = j < seen ? __expf(t.scores[at + j] + bias.at(c, head, row, j) - lse) : 0;
    const float ds = j < seen ? t.scale * p * (t.dp[at + j] - delta[0]) : 0;
    t.p[at + j] = from_float<T>(p);
    t.ds[at + j] = from_float<T>(ds);
  }
}

/// The rows of one item from `first` on, all heads, as an operand.
Matrix heads_of(const Tensor& x, int64_t item, int64_t first, int64_t width, bool transposed) {
  return {.data = x.item(item).slice(0, first, 1).data(),
          .dtype = x.dtype(),
          .stride = x.stride(1),
          .transposed = transposed,
          .batch_stride = width};
}

/// What all products of a chunk have in common.
Product product_of(const Chunk& c, int64_t rows, int64_t columns, int64_t inner, Matrix left,
                   Matrix right) {
  return {.rows = rows,
          .columns = columns,
          .inner = inner,
          .batch = c.heads,
          .left = left,
          .right = right};
}

/// (H, rows, keys) in work memory.
void into_scores(Product p, const Chunk& c, float* to, double alpha, Products& products) {
  p.alpha = alpha;
  p.out = to;
  p.out_dtype = DType::f32;
  p.out_stride = c.pitch;
  p.out_batch_stride = c.rows * c.pitch;
  products.run(p);
}

void into_heads(Product p, const Chunk& c, const Tensor& to, int64_t first, double beta,
                Products& products) {
  p.beta = beta;
  p.out = to.item(c.item).slice(0, first, 1).data();
  p.out_dtype = to.dtype();
  p.out_stride = to.stride(1);
  p.out_batch_stride = c.width;
  products.run(p);
}

Matrix scores_of(const void* data, DType dtype, const Chunk& c, bool transposed) {
  return {.data = data,
          .dtype = dtype,
          .stride = c.pitch,
          .transposed = transposed,
          .batch_stride = c.rows * c.pitch};
}

/// Calls f(chunk) for all chunks of all items, in order.
template <typename F>
void for_chunks(const Tensor& q, const AttentionOptions& options, F&& f) {
  const int64_t tokens = q.dim(1), heads = options.heads;
  const int64_t pitch = (tokens + 7) / 8 * 8;
  const int64_t most =
      std::min(tokens, std::max<int64_t>(16, kChunkElements / (heads * pitch) / 16 * 16));
  for (int64_t item = 0; item < q.dim(0); ++item)
    for (int64_t first = 0; first < tokens; first += most) {
      const int64_t rows = std::min(most, tokens - first);
      f(Chunk{item, first, rows, options.causal ? first + rows : tokens, pitch, heads,
              q.dim(2) / heads, options.causal});
    }
}

/// Elements of the largest chunk.
int64_t chunk_elements(const Tensor& q, const AttentionOptions& options) {
  int64_t most = 0;
  for_chunks(q, options,
             [&](const Chunk& c) { most = std::max(most, c.heads * c.rows * c.pitch); });
  return most;
}

float* lse_of(const Tensor& lse, int64_t item) {
  return lse ? lse.as<float>() + item * lse.stride(0) : nullptr;
}

}  // namespace

void attention_by_products(Context& context, Products& products, const Tensor& out,
                           const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                           const AttentionOptions& options) {
  for_activations(q.dtype(), [&]<typename T>(T) {
    const int64_t elements = chunk_elements(q, options);
    auto* const scores = context.scratch<float>(Slot::attention_parts, 2 * elements);
    // f32 probabilities take the place of the scores.
    T* const p = reinterpret_cast<T*>(sizeof(T) == 4 ? scores : scores + elements);
    const Bias<T> bias(options.bias);
    for_chunks(q, options, [&](const Chunk& c) {
      into_scores(
          product_of(c, c.rows, c.keys, c.width, heads_of(q, c.item, c.first, c.width, false),
                     heads_of(k, c.item, 0, c.width, true)),
          c, scores, options.scale, products);
      const dim3 grid(static_cast<unsigned>(c.rows), static_cast<unsigned>(c.heads));
      softmax_kernel<<<grid, kThreads, 0, context.stream()>>>(p, scores, lse_of(lse, c.item),
                                                              lse ? lse.stride(1) : 0, bias, c);
      CUDA_CHECK_LAUNCH();
      into_heads(product_of(c, c.rows, c.width, c.keys, scores_of(p, q.dtype(), c, false),
                            heads_of(v, c.item, 0, c.width, false)),
                 c, out, c.first, 0, products);
    });
  });
}

void attention_bwd_by_products(Context& context, Products& products,
                               const CudnnGraphs::AttentionBwd& t,
                               const AttentionOptions& options) {
  for_activations(t.q.dtype(), [&]<typename T>(T) {
    const int64_t elements = chunk_elements(t.q, options);
    auto* const scores = context.scratch<float>(Slot::attention_parts, 4 * elements);
    float* const dp = scores + elements;
    T* const p = reinterpret_cast<T*>(sizeof(T) == 4 ? scores : scores + 2 * elements);
    T* const ds = reinterpret_cast<T*>(sizeof(T) == 4 ? dp : scores + 3 * elements);
    const Bias<T> bias(options.bias);
    for_chunks(t.q, options, [&](const Chunk& c) {
      const int64_t width = c.width;
      const DType dtype = t.q.dtype();
      const Matrix d_out = heads_of(t.d_out, c.item, c.first, width, false);
      into_scores(product_of(c, c.rows, c.keys, width, heads_of(t.q, c.item, c.first, width, false),
                             heads_of(t.k, c.item, 0, width, true)),
                  c, scores, options.scale, products);
      into_scores(
          product_of(c, c.rows, c.keys, width, d_out, heads_of(t.v, c.item, 0, width, true)), c, dp,
          1, products);
      const Backward<T> args{p,
                             ds,
                             scores,
                             dp,
                             lse_of(t.lse, c.item),
                             t.lse.stride(1),
                             Rows<const T>(t.out),
                             Rows<const T>(t.d_out),
                             static_cast<float>(options.scale)};
      const dim3 grid(static_cast<unsigned>(c.rows), static_cast<unsigned>(c.heads));
      softmax_bwd_kernel<<<grid, kThreads, 0, context.stream()>>>(args, bias, c);
      CUDA_CHECK_LAUNCH();
      into_heads(product_of(c, c.rows, width, c.keys, scores_of(ds, dtype, c, false),
                            heads_of(t.k, c.item, 0, width, false)),
                 c, t.dq, c.first, 0, products);
      // Keys [0, seen) have sums of earlier chunks, the rest, behind a causal mask, are new.
      const int64_t seen = c.first == 0 ? 0 : options.causal ? c.first : c.keys;
      const auto add_keys = [&](const Tensor& to, const T* left, const Matrix& right) {
        const auto part = [&](int64_t from, int64_t count, double beta) {
          if (count == 0) return;
          into_heads(
              product_of(c, count, width, c.rows, scores_of(left + from, dtype, c, true), right), c,
              to, from, beta, products);
        };
        part(0, seen, 1);
        part(seen, c.keys - seen, 0);
      };
      add_keys(t.dv, p, d_out);
      add_keys(t.dk, ds, heads_of(t.q, c.item, c.first, width, false));
    });
  });
}

}  // namespace fluxlora::cuda
