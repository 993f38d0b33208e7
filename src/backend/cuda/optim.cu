// SPDX-License-Identifier: Apache-2.0
// The update of flat parameter buffers. What changes from step to step is read from device memory,
// so that a captured step can be replayed.
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/rows.cuh"
#include "ops/checks.h"

namespace fluxlora::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPack = 4;
constexpr int kPacksOfThread = 8;
/// Numbers of a block's partial sum: fixed, so that the order of the sum is.
constexpr int64_t kChunk = int64_t{kThreads} * kPack * kPacksOfThread;

/// partial[block] = Σ g² over its chunk, in f32 within a thread, then in f64.
template <int W>
__global__ void __launch_bounds__(kThreads)
    squares_kernel(double* partial, const float* g, int64_t count) {
  const int64_t first = blockIdx.x * kChunk;
  float sum = 0;
#pragma unroll
  for (int p = 0; p < kPacksOfThread; ++p) {
    const int64_t at = first + (static_cast<int64_t>(p) * kThreads + threadIdx.x) * kPack;
#pragma unroll
    for (int i = 0; i < kPack; i += W) {
      if (at + i >= count) continue;
      float v[W];
      load<W>(v, g + at + i);
#pragma unroll
      for (int j = 0; j < W; ++j) sum = fmaf(v[j], v[j], sum);
    }
  }
  double total[1] = {static_cast<double>(sum)};
  block_sum(total);
  if (threadIdx.x == 0) partial[blockIdx.x] = total[0];
}

__global__ void __launch_bounds__(1024)
    finish_norm_kernel(float* norm, const double* partial, int64_t count) {
  double sum[1] = {};
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum[0] += partial[i];
  block_sum(sum);
  if (threadIdx.x == 0) *norm = static_cast<float>(sqrt(sum[0]));
}

struct Update {
  float *p, *m, *v;
  const float *g, *norm, *scalars;
  int64_t count;
  double weight_decay;
  float max_norm, rest1, beta2, rest2, eps;
};

/// What a step's scalars make of an update.
struct Factors {
  float clip, decay, step, root2;
};

__device__ Factors factors_of(const Update& u) {
  const double lr = static_cast<double>(u.scalars[0]);
  const float length = u.norm[0];
  return {u.max_norm > 0 && length > u.max_norm ? u.max_norm / length : 1.0f,
          static_cast<float>(1 - lr * u.weight_decay),
          static_cast<float>(lr / static_cast<double>(u.scalars[1])), sqrtf(u.scalars[2])};
}

template <int W>
__global__ void __launch_bounds__(kThreads) adamw_kernel(Update u) {
  __shared__ Factors shared;
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * W;
  const bool inside = at < u.count;
  float p[W], m[W], v[W], g[W];
  if (inside) {  // on their way while the factors are made
    load<W>(g, u.g + at);
    load<W>(m, u.m + at);
    load<W>(v, u.v + at);
    load<W>(p, u.p + at);
  }
  if (threadIdx.x == 0) shared = factors_of(u);
  __syncthreads();
  if (!inside) return;
  const Factors f = shared;
#pragma unroll
  for (int i = 0; i < W; ++i) {
    const float grad = g[i] * f.clip;
    m[i] += u.rest1 * (grad - m[i]);
    v[i] = u.beta2 * v[i] + u.rest2 * grad * grad;
    p[i] = p[i] * f.decay - f.step * m[i] / (sqrtf(v[i]) / f.root2 + u.eps);
  }
  store<W>(u.p + at, p);
  store<W>(u.m + at, m);
  store<W>(u.v + at, v);
}

bool aligned(const Tensor& x) {
  return reinterpret_cast<uintptr_t>(x.data()) % 16 == 0;
}

}  // namespace

void CudaOps::global_norm(const Tensor& norm, const Tensor& g) {
  checks::global_norm(norm, g);
  CHECK(norm.dtype() == DType::f32 && g.dtype() == DType::f32, "global_norm: " + g.describe());
  const int64_t chunks = (g.size() + kChunk - 1) / kChunk;
  auto* const partial = context_.scratch<double>(Slot::norm, chunks);
  if (chunks > 0) {
    const auto blocks = blocks_for(chunks, 1);
    if (aligned(g) && g.size() % kPack == 0)
      squares_kernel<kPack>
          <<<blocks, kThreads, 0, stream()>>>(partial, g.as<const float>(), g.size());
    else
      squares_kernel<1><<<blocks, kThreads, 0, stream()>>>(partial, g.as<const float>(), g.size());
    CUDA_CHECK_LAUNCH();
  }
  finish_norm_kernel<<<1, 1024, 0, stream()>>>(norm.as<float>(), partial, chunks);
  CUDA_CHECK_LAUNCH();
}

void CudaOps::adamw_step(const Tensor& p, const Tensor& m, const Tensor& v, const Tensor& g,
                         const Tensor& norm, const Tensor& scalars, const AdamWOptions& options) {
  checks::adamw_step(p, m, v, g, norm, scalars);
  CHECK(p.dtype() == DType::f32 && norm.dtype() == DType::f32 && scalars.dtype() == DType::f32,
        "adamw_step: " + p.describe());
  if (p.size() == 0) return;
  const Update u{.p = p.as<float>(),
                 .m = m.as<float>(),
                 .v = v.as<float>(),
                 .g = g.as<const float>(),
                 .norm = norm.as<const float>(),
                 .scalars = scalars.as<const float>(),
                 .count = p.size(),
                 .weight_decay = options.weight_decay,
                 .max_norm = static_cast<float>(options.max_norm),
                 .rest1 = static_cast<float>(1 - options.beta1),
                 .beta2 = static_cast<float>(options.beta2),
                 .rest2 = static_cast<float>(1 - options.beta2),
                 .eps = static_cast<float>(options.eps)};
  const bool packed = p.size() % kPack == 0 && aligned(p) && aligned(m) && aligned(v) && aligned(g);
  if (packed)
    adamw_kernel<kPack><<<blocks_for(p.size(), kThreads * kPack), kThreads, 0, stream()>>>(u);
  else
    adamw_kernel<1><<<blocks_for(p.size(), kThreads), kThreads, 0, stream()>>>(u);
  CUDA_CHECK_LAUNCH();
}

}  // namespace fluxlora::cuda
