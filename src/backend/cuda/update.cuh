// SPDX-License-Identifier: Apache-2.0
// One kernel for the updates that go element by element over flat buffers. What changes from step
// to step is read from device memory, so that a captured step can be replayed.
#pragma once

#include <array>

#include "backend/cuda/rows.cuh"

namespace fluxlora::cuda {

inline constexpr int kUpdateThreads = 256;

/// N buffers that are read and written, the gradients, and the scalars of the step.
template <int N>
struct Update {
  float* flat[N];
  const float *g, *norm, *scalars;
  int64_t count;
  float max_norm;
};

/// F: `Numbers numbers(const float* scalars) const`, what the scalars make of a step, and
/// `void operator()(float (&x)[N], float g, const Numbers&) const`, one element.
template <int W, int N, typename F>
__global__ void __launch_bounds__(kUpdateThreads) update_kernel(Update<N> u, F f) {
  __shared__ typename F::Numbers shared;
  __shared__ float clip;
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kUpdateThreads + threadIdx.x) * W;
  const bool inside = at < u.count;
  float x[N][W], g[W];
  if (inside) {  // on their way while the numbers are made
    load<W>(g, u.g + at);
#pragma unroll
    for (int n = 0; n < N; ++n) load<W>(x[n], u.flat[n] + at);
  }
  if (threadIdx.x == 0) {
    const float length = u.norm[0];
    clip = u.max_norm > 0 && length > u.max_norm ? u.max_norm / length : 1.0f;
    shared = f.numbers(u.scalars);
  }
  __syncthreads();
  if (!inside) return;
  const typename F::Numbers numbers = shared;
#pragma unroll
  for (int i = 0; i < W; ++i) {
    float one[N];
#pragma unroll
    for (int n = 0; n < N; ++n) one[n] = x[n][i];
    f(one, g[i] * clip, numbers);
#pragma unroll
    for (int n = 0; n < N; ++n) x[n][i] = one[n];
  }
#pragma unroll
  for (int n = 0; n < N; ++n) store<W>(u.flat[n] + at, x[n]);
}

/// The tensors are flat f32; those of `flat` are updated.
template <int N, typename F>
void update(cudaStream_t stream, const std::array<Tensor, N>& flat, const Tensor& g,
            const Tensor& norm, const Tensor& scalars, double max_norm, const F& f) {
  CHECK(g.dtype() == DType::f32 && norm.dtype() == DType::f32 && scalars.dtype() == DType::f32,
        "an update of " + g.describe());
  if (g.size() == 0) return;
  constexpr int kPack = 4;
  const auto packs = [](const Tensor& x) {
    return x.size() % kPack == 0 && reinterpret_cast<uintptr_t>(x.data()) % 16 == 0;
  };
  Update<N> u{
      {},       g.as<const float>(),         norm.as<const float>(), scalars.as<const float>(),
      g.size(), static_cast<float>(max_norm)};
  bool packed = packs(g);
  for (size_t n = 0; n < flat.size(); ++n) {
    u.flat[n] = flat[n].template as<float>();
    packed = packed && packs(flat[n]);
  }
  if (packed)
    update_kernel<kPack, N>
        <<<blocks_for(g.size(), kUpdateThreads * kPack), kUpdateThreads, 0, stream>>>(u, f);
  else
    update_kernel<1, N><<<blocks_for(g.size(), kUpdateThreads), kUpdateThreads, 0, stream>>>(u, f);
  CUDA_CHECK_LAUNCH();
}

}  // namespace fluxlora::cuda
