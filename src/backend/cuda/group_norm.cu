// SPDX-License-Identifier: Apache-2.0
// GroupNorm of channel-last pictures (VAE): sums of chunks of positions, the factors of each
// channel, then the result.
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/rows.cuh"
#include "ops/checks.h"

namespace fluxlora::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPositions = 256;  // of a chunk

/// Mean and sum of squared deviations of one channel over one chunk.
struct Moments {
  float mean, squares;
};
/// How one channel is normalised: (x - center) factor + bias.
struct Channel {
  float center, factor, bias;
};

/// moments (B, chunks, C). The block's threads are a table: `across` packs of W channels, and lanes
/// that share the chunk's positions. Deviations are taken from the chunk's first position, so that
/// a large mean costs no digits. Grid: x chunks, y items, z tiles of channels.
template <int W, typename T>
__global__ void __launch_bounds__(kThreads)
    moments_kernel(Moments* moments, Rows<const T> x, int across) {
  __shared__ float sums[2][kThreads * W];
  const int64_t b = blockIdx.y, first = blockIdx.x * kPositions, C = x.columns;
  const int64_t count = first + kPositions < x.rows ? kPositions : x.rows - first;
  const int tx = static_cast<int>(threadIdx.x) % across,
            ty = static_cast<int>(threadIdx.x) / across;
  const int lanes = kThreads / across;
  const int64_t column = (static_cast<int64_t>(blockIdx.z) * across + tx) * W;
  float base[W] = {}, sum[W] = {}, squares[W] = {};
  if (column < C) {
    load<W>(base, x.row(b, first) + column);
#pragma unroll 4
    for (int64_t p = ty; p < count; p += lanes) {
      float v[W];
      load<W>(v, x.row(b, first + p) + column);
#pragma unroll
      for (int i = 0; i < W; ++i) {
        v[i] -= base[i];
        sum[i] += v[i];
        squares[i] = fmaf(v[i], v[i], squares[i]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < W; ++i) {
    sums[0][threadIdx.x * W + i] = sum[i];
    sums[1][threadIdx.x * W + i] = squares[i];
  }
  __syncthreads();
  if (ty != 0 || column >= C) return;
  for (int lane = 1; lane < lanes; ++lane) {
#pragma unroll
    for (int i = 0; i < W; ++i) {
      sum[i] += sums[0][(lane * across + tx) * W + i];
      squares[i] += sums[1][(lane * across + tx) * W + i];
    }
  }
  Moments* const to = moments + (b * gridDim.x + blockIdx.x) * C + column;
  const auto n = static_cast<float>(count);
#pragma unroll
  for (int i = 0; i < W; ++i)
    to[i] = {base[i] + sum[i] / n, fmaxf(squares[i] - sum[i] * sum[i] / n, 0.0f)};
}

/// table (B, C) from moments (B, chunks, C). Grid: x groups, y items.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    channels_kernel(Channel* table, const Moments* moments, const T* weight, const T* bias,
                    int64_t chunks, int64_t positions, int64_t channels, double eps) {
  const int64_t width = channels / gridDim.x, first = blockIdx.x * width, b = blockIdx.y;
  const Moments* const from = moments + b * chunks * channels + first;
  const auto count = [&](int64_t chunk) {
    return static_cast<double>(chunk + 1 < chunks ? kPositions : positions - chunk * kPositions);
  };
  const double total = static_cast<double>(positions) * static_cast<double>(width);
  double sum[1] = {};
  for (int64_t i = threadIdx.x; i < chunks * width; i += kThreads)
    sum[0] += count(i / width) * static_cast<double>(from[i / width * channels + i % width].mean);
  block_sum(sum);
  const double mean = sum[0] / total;
  double squares[1] = {};
  for (int64_t i = threadIdx.x; i < chunks * width; i += kThreads) {
    const Moments m = from[i / width * channels + i % width];
    const double difference = static_cast<double>(m.mean) - mean;
    squares[0] += static_cast<double>(m.squares) + count(i / width) * difference * difference;
  }
  block_sum(squares);
  const double inverse = 1 / sqrt(squares[0] / total + eps);
  for (int64_t i = threadIdx.x; i < width; i += kThreads)
    table[b * channels + first + i] = {static_cast<float>(mean),
                                       to_float(weight[first + i]) * static_cast<float>(inverse),
                                       to_float(bias[first + i])};
}

/// The same blocks as moments_kernel: a thread has the factors of its channels in registers.
template <int W, bool kSilu, typename T>
__global__ void __launch_bounds__(kThreads)
    normalise_kernel(Rows<T> y, Rows<const T> x, const Channel* table, int across) {
  const int64_t b = blockIdx.y, first = blockIdx.x * kPositions;
  const int64_t last = first + kPositions < x.rows ? first + kPositions : x.rows;
  const int tx = static_cast<int>(threadIdx.x) % across,
            ty = static_cast<int>(threadIdx.x) / across;
  const int64_t column = (static_cast<int64_t>(blockIdx.z) * across + tx) * W;
  if (column >= x.columns) return;
  Channel channels[W];
#pragma unroll
  for (int i = 0; i < W; ++i) channels[i] = table[b * x.columns + column + i];
#pragma unroll 4
  for (int64_t p = first + ty; p < last; p += kThreads / across) {
    float v[W];
    load<W>(v, x.row(b, p) + column);
#pragma unroll
    for (int i = 0; i < W; ++i) {
      v[i] = fmaf(v[i] - channels[i].center, channels[i].factor, channels[i].bias);
      if constexpr (kSilu) v[i] = __fdividef(v[i], 1.0f + __expf(-v[i]));
    }
    store<W>(y.row(b, p) + column, v);
  }
}

struct GroupNorm {
  Context& context;
  int64_t groups;
  double eps;
  bool silu;

  template <int W, typename T>
  void run(Rows<T> y, Rows<const T> x, const T* weight, const T* bias) const {
    const int64_t chunks = (x.rows + kPositions - 1) / kPositions, C = x.columns;
    const int64_t packs = C / W;
    int across = 1;
    while (across < packs && across < 32) across *= 2;
    const auto items = static_cast<unsigned>(x.batches);
    auto* const moments = context.scratch<Moments>(Slot::group, x.batches * chunks * C);
    auto* const table = context.scratch<Channel>(Slot::group_table, x.batches * C);
    const cudaStream_t stream = context.stream();
    const dim3 grid(blocks_for(chunks, 1), items, blocks_for(packs, across));
    moments_kernel<W><<<grid, kThreads, 0, stream>>>(moments, x, across);
    CUDA_CHECK_LAUNCH();
    channels_kernel<<<dim3(static_cast<unsigned>(groups), items), kThreads, 0, stream>>>(
        table, moments, weight, bias, chunks, x.rows, C, eps);
    CUDA_CHECK_LAUNCH();
    if (silu)
      normalise_kernel<W, true><<<grid, kThreads, 0, stream>>>(y, x, table, across);
    else
      normalise_kernel<W, false><<<grid, kThreads, 0, stream>>>(y, x, table, across);
    CUDA_CHECK_LAUNCH();
  }
};

}  // namespace

void CudaOps::group_norm(const Tensor& y, const Tensor& x, const Tensor& weight, const Tensor& bias,
                         int64_t groups, double eps, bool silu) {
  checks::group_norm(y, x, weight, bias, groups);
  if (y.size() == 0) return;
  for_activations(y.dtype(), [&]<typename T>(T) {
    const Rows<T> to(y);
    const Rows<const T> from(x);
    const T *const w = weight.as<const T>(), *const b = bias.as<const T>();
    const GroupNorm norm{context_, groups, eps, silu};
    if (all_pack(kWidth<T>, to, from))
      norm.run<kWidth<T>>(to, from, w, b);
    else
      norm.run<1>(to, from, w, b);
  });
}

}  // namespace fluxlora::cuda
