// SPDX-License-Identifier: Apache-2.0
// LayerNorm and RMSNorm with weights (text encoders).
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/layer_norm.cuh"
#include "ops/checks.h"

namespace fluxlora::cuda {
namespace {

/// Grid: x rows of an item, y items.
template <typename Tile, typename T>
__global__ void __launch_bounds__(kMostThreads)
    rms_norm_kernel(Rows<T> y, Rows<const T> x, const T* weight, float eps) {
  const int64_t n = y.columns, t = blockIdx.x, b = blockIdx.y;
  float v[Tile::kCount], w[Tile::kCount], squares[1] = {};
  Tile::load(v, x.row(b, t), n);
#pragma unroll
  for (int j = 0; j < Tile::kCount; ++j) squares[0] = fmaf(v[j], v[j], squares[0]);
  block_sum(squares);
  const float inverse = 1.0f / sqrtf(squares[0] / static_cast<float>(n) + eps);
  Tile::load(w, weight, n);
#pragma unroll
  for (int j = 0; j < Tile::kCount; ++j) v[j] *= inverse * w[j];
  Tile::store(y.row(b, t), v, n);
}

}  // namespace

void CudaOps::layer_norm(const Tensor& y, const Tensor& stats, const Tensor& x,
                         const Tensor& weight, const Tensor& bias, double eps) {
  checks::layer_norm(y, stats, x, weight, bias);
  for_activations(y.dtype(), [&]<typename T>(T) {
    NormForward<T> a{};
    a.h = Rows<T>(y);
    a.stats = Rows<float>(stats);
    a.x = Rows<const T>(x);
    a.scale = Rows<const T>::per_item(weight, a.h.rows);
    a.shift = Rows<const T>::per_item(bias, a.h.rows);
    a.eps = static_cast<float>(eps);
    launch_norm_forward(stream(), a);
  });
}

void CudaOps::layer_norm_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x,
                             const Tensor& stats, const Tensor& weight, Grad mode) {
  if (mode == Grad::ignore) return;
  checks::layer_norm_bwd(dx, dy, x, stats, weight);
  for_activations(dx.dtype(), [&]<typename T>(T) {
    NormBackward<T> a{};
    a.dx = Rows<T>(dx);
    a.dh = Rows<const T>(dy);
    a.x = Rows<const T>(x);
    a.stats = Rows<const float>(stats);
    a.scale = Rows<const T>::per_item(weight, a.dx.rows);
    a.plus = 0;
    a.accumulate = mode == Grad::accumulate;
    launch_norm_backward(stream(), a);
  });
}

void CudaOps::rms_norm(const Tensor& y, const Tensor& x, const Tensor& weight, double eps) {
  checks::rms_norm(y, x, weight);
  if (y.size() == 0) return;
  for_activations(y.dtype(), [&]<typename T>(T) {
    const Rows<T> to(y);
    const Rows<const T> from(x), weights(weight);
    const bool packed = all_pack(kWidth<T>, to, from, weights);
    with_row_tile<T, 4>(to.columns, packed, [&]<typename Tile>(Tile, int threads) {
      const dim3 grid(blocks_for(to.rows, 1), static_cast<unsigned>(to.batches));
      rms_norm_kernel<Tile, T>
          <<<grid, threads, 0, stream()>>>(to, from, weights.data, static_cast<float>(eps));
      CUDA_CHECK_LAUNCH();
    });
  });
}

}  // namespace fluxlora::cuda
