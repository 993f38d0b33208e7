// SPDX-License-Identifier: Apache-2.0
// Flow matching: the noisy picture, and the loss together with its gradient.
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/elementwise.cuh"
#include "backend/cuda/reduce.cuh"
#include "ops/checks.h"

namespace fluxlora::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kRowsOfBlock = 16;

struct Interpolate {  // x0, noise
  const float* t;
  __device__ float operator()(const float (&v)[2], int64_t item) const {
    return (1.0f - t[item]) * v[0] + t[item] * v[1];
  }
};

/// partial (B, chunks) = Σ mask (pred - (noise - x0))² over the rows of a chunk, and the gradient.
/// Grid: x chunks, y items.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    loss_kernel(float* partial, Rows<T> d_pred, Rows<const T> pred, Rows<const float> x0,
                Rows<const float> noise, const float* weight, Rows<const float> mask, float c,
                float k) {
  const int64_t b = blockIdx.y, first = blockIdx.x * kRowsOfBlock, n = pred.columns;
  const int64_t rows = first + kRowsOfBlock < pred.rows ? kRowsOfBlock : pred.rows - first;
  const float factor =
      d_pred ? 2.0f * weight[b] / (static_cast<float>(pred.rows) * static_cast<float>(n)) : 0.0f;
  float sum[1] = {};
  for (int64_t i = threadIdx.x; i < rows * n; i += kThreads) {
    const int64_t r = first + i / n, at = i % n;
    const float difference =
        to_float(pred.row(b, r)[at]) - (noise.row(b, r)[at] - x0.row(b, r)[at]);
    const float share = mask ? mask.row(b, r)[at % mask.columns] : 1.0f;
    // e², or k (sqrt(e² + c²) - c) without the difference of two near numbers; half its slope is
    // `pull`, as `factor` has the 2 of a square.
    float cost = difference, pull = difference;
    if (c > 0) {
      const float root = sqrtf(fmaf(difference, difference, c * c));
      cost = k * difference / (root + c);
      pull = 0.5f * k * difference / root;
    }
    sum[0] = fmaf(share * cost, difference, sum[0]);
    if (d_pred) d_pred.row(b, r)[at] = from_float<T>(factor * share * pull);
  }
  block_sum(sum);
  if (threadIdx.x == 0) partial[b * gridDim.x + blockIdx.x] = sum[0];
}

/// loss[b] = the sum of partial (B, chunks) over chunks / count. Grid: items.
__global__ void __launch_bounds__(kThreads)
    finish_loss_kernel(float* loss, const float* partial, int64_t chunks, double count) {
  double sum[1] = {};
  for (int64_t c = threadIdx.x; c < chunks; c += kThreads)
    sum[0] += static_cast<double>(partial[blockIdx.x * chunks + c]);
  block_sum(sum);
  if (threadIdx.x == 0) loss[blockIdx.x] = static_cast<float>(sum[0] / count);
}

}  // namespace

void CudaOps::flow_interpolate(const Tensor& x_t, const Tensor& x0, const Tensor& noise,
                               const Tensor& t) {
  checks::flow_interpolate(x_t, x0, noise, t);
  for_activations(x_t.dtype(), [&]<typename T>(T) {
    const Inputs<float, 2> in{{Rows<const float>(x0), Rows<const float>(noise)}};
    elementwise(stream(), Rows<T>(x_t), in, Join::items, Interpolate{t.as<const float>()});
  });
}

void CudaOps::flow_loss(const Tensor& loss, const Tensor& d_pred, const Tensor& pred,
                        const Tensor& x0, const Tensor& noise, const Tensor& weight,
                        const Tensor& mask, const Penalty& penalty) {
  checks::flow_loss(loss, d_pred, pred, x0, noise, weight, mask);
  if (pred.size() == 0) return;
  for_activations(pred.dtype(), [&]<typename T>(T) {
    const Rows<const T> prediction(pred);
    const int64_t chunks = (prediction.rows + kRowsOfBlock - 1) / kRowsOfBlock;
    auto* const partial = context_.scratch<float>(Slot::norm, prediction.batches * chunks);
    const auto items = static_cast<unsigned>(prediction.batches);
    loss_kernel<<<dim3(blocks_for(chunks, 1), items), kThreads, 0, stream()>>>(
        partial, Rows<T>(d_pred), prediction, Rows<const float>(x0), Rows<const float>(noise),
        weight.as<const float>(), Rows<const float>(mask), static_cast<float>(penalty.c),
        static_cast<float>(penalty.k));
    CUDA_CHECK_LAUNCH();
    const double count =
        static_cast<double>(prediction.rows) * static_cast<double>(prediction.columns);
    finish_loss_kernel<<<items, kThreads, 0, stream()>>>(loss.as<float>(), partial, chunks, count);
    CUDA_CHECK_LAUNCH();
  });
}

}  // namespace fluxlora::cuda
