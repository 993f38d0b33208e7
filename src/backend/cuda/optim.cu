// SPDX-License-Identifier: Apache-2.0
// The norm of the gradients, and the updates that go element by element.
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/update.cuh"
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

struct AdamW {
  double weight_decay;
  float rest1, beta2, rest2, eps;

  struct Numbers {
    float decay, step, root2;
  };
  __device__ Numbers numbers(const float* scalars) const {
    const double lr = static_cast<double>(scalars[0]);
    return {static_cast<float>(1 - lr * weight_decay),
            static_cast<float>(lr / static_cast<double>(scalars[1])), sqrtf(scalars[2])};
  }
  __device__ void operator()(float (&x)[3], float g, const Numbers& n) const {
    auto& [p, m, v] = x;
    m += rest1 * (g - m);
    v = beta2 * v + rest2 * g * g;
    p = p * n.decay - n.step * m / (sqrtf(v) / n.root2 + eps);
  }
};

struct Lion {
  double weight_decay;
  float beta1, rest1, beta2, rest2;

  struct Numbers {
    float decay, step;
  };
  __device__ Numbers numbers(const float* scalars) const {
    return {static_cast<float>(1 - static_cast<double>(scalars[0]) * weight_decay), scalars[0]};
  }
  __device__ void operator()(float (&x)[2], float g, const Numbers& n) const {
    auto& [p, m] = x;
    const float way = beta1 * m + rest1 * g;
    p = p * n.decay - n.step * static_cast<float>((way > 0) - (way < 0));
    m = beta2 * m + rest2 * g;
  }
};

struct ScheduleFree {
  double beta1;
  float beta2, rest2, eps, decay;

  struct Numbers {
    float share, y_step, z_step, root2;
  };
  __device__ Numbers numbers(const float* scalars) const {
    const double lr = static_cast<double>(scalars[0]), c = static_cast<double>(scalars[1]);
    return {scalars[1], static_cast<float>(lr * (1 - beta1 * (1 - c))), scalars[0],
            sqrtf(scalars[2])};
  }
  __device__ void operator()(float (&x)[3], float g, const Numbers& n) const {
    auto& [y, z, v] = x;
    v = beta2 * v + rest2 * g * g;
    const float d = g / (sqrtf(v) / n.root2 + eps) + decay * y;
    y += n.share * (z - y) - n.y_step * d;
    z -= n.z_step * d;
  }
};

/// Moments in 8 bit: one block of threads for one block of numbers.
struct Coded {
  float* p;
  const float *g, *norm, *scalars, *meanings;
  uint8_t *m, *v;
  float *m_scale, *v_scale;
  int64_t count;
  AdamW rule;
  float beta1, max_norm;
};

/// The first code whose middle to the next isn't below x.
__device__ uint8_t nearest_code(const float* meaning, float x) {
  int first = 0, last = 255;
  while (first < last) {
    const int half = (first + last) / 2;
    if ((meaning[half] + meaning[half + 1]) / 2 < x)
      first = half + 1;
    else
      last = half;
  }
  return static_cast<uint8_t>(first);
}

/// The largest of a number of each thread; all threads must call it.
__device__ float block_largest(float x) {
  __shared__ float largest[kMomentBlock / kWarp];
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, distance));
  __syncthreads();  // the numbers of the call before have been read
  if (threadIdx.x % kWarp == 0) largest[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = largest[0];
  for (int w = 1; w < kMomentBlock / kWarp; ++w) x = fmaxf(x, largest[w]);
  return x;
}

__global__ void __launch_bounds__(kMomentBlock) adamw8bit_kernel(Coded u) {
  __shared__ float meanings[2 * 256];
  meanings[threadIdx.x] = u.meanings[threadIdx.x];
  meanings[256 + threadIdx.x] = u.meanings[256 + threadIdx.x];
  __syncthreads();
  const int64_t block = blockIdx.x, at = block * kMomentBlock + threadIdx.x;
  const bool inside = at < u.count;
  float m = 0, v = 0;
  if (inside) {
    const float length = u.norm[0];
    const float clip = u.max_norm > 0 && length > u.max_norm ? u.max_norm / length : 1.0f;
    const AdamW::Numbers n = u.rule.numbers(u.scalars);
    const float grad = u.g[at] * clip;
    m = u.beta1 * (meanings[u.m[at]] * u.m_scale[block]) + u.rule.rest1 * grad;
    v = u.rule.beta2 * (meanings[256 + u.v[at]] * u.v_scale[block]) + u.rule.rest2 * grad * grad;
    u.p[at] = u.p[at] * n.decay - n.step * m / (sqrtf(v) / n.root2 + u.rule.eps);
  }
  const float m_largest = block_largest(fabsf(m)), v_largest = block_largest(v);
  if (inside) {
    u.m[at] = nearest_code(meanings, m_largest > 0 ? m * (1 / m_largest) : 0);
    u.v[at] = nearest_code(meanings + 256, v_largest > 0 ? v * (1 / v_largest) : 0);
  }
  if (threadIdx.x == 0) {  // every thread has read the old ones before block_largest()
    u.m_scale[block] = m_largest;
    u.v_scale[block] = v_largest;
  }
}

AdamW adamw_rule(const AdamWOptions& options) {
  return {.weight_decay = options.weight_decay,
          .rest1 = static_cast<float>(1 - options.beta1),
          .beta2 = static_cast<float>(options.beta2),
          .rest2 = static_cast<float>(1 - options.beta2),
          .eps = static_cast<float>(options.eps)};
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
  checks::update("adamw_step", {p, m, v, g}, norm, scalars, 3);
  update<3>(stream(), {p, m, v}, g, norm, scalars, options.max_norm, adamw_rule(options));
}

void CudaOps::lion_step(const Tensor& p, const Tensor& m, const Tensor& g, const Tensor& norm,
                        const Tensor& scalars, const LionOptions& options) {
  checks::update("lion_step", {p, m, g}, norm, scalars, 1);
  const Lion f{.weight_decay = options.weight_decay,
               .beta1 = static_cast<float>(options.beta1),
               .rest1 = static_cast<float>(1 - options.beta1),
               .beta2 = static_cast<float>(options.beta2),
               .rest2 = static_cast<float>(1 - options.beta2)};
  update<2>(stream(), {p, m}, g, norm, scalars, options.max_norm, f);
}

void CudaOps::adamw8bit_step(const Tensor& p, const Moments8& moments, const Tensor& g,
                             const Tensor& norm, const Tensor& scalars,
                             const AdamWOptions& options) {
  checks::adamw8bit_step(p, moments, g, norm, scalars);
  CHECK(p.dtype() == DType::f32 && norm.dtype() == DType::f32 && scalars.dtype() == DType::f32,
        "adamw8bit_step: " + p.describe());
  if (p.size() == 0) return;
  const Coded u{.p = p.as<float>(),
                .g = g.as<const float>(),
                .norm = norm.as<const float>(),
                .scalars = scalars.as<const float>(),
                .meanings = moments.codes.as<const float>(),
                .m = moments.m.as<uint8_t>(),
                .v = moments.v.as<uint8_t>(),
                .m_scale = moments.m_scale.as<float>(),
                .v_scale = moments.v_scale.as<float>(),
                .count = p.size(),
                .rule = adamw_rule(options),
                .beta1 = static_cast<float>(options.beta1),
                .max_norm = static_cast<float>(options.max_norm)};
  adamw8bit_kernel<<<blocks_for(p.size(), kMomentBlock), kMomentBlock, 0, stream()>>>(u);
  CUDA_CHECK_LAUNCH();
}

void CudaOps::schedule_free_step(const Tensor& y, const Tensor& z, const Tensor& v, const Tensor& g,
                                 const Tensor& norm, const Tensor& scalars,
                                 const ScheduleFreeOptions& options) {
  checks::update("schedule_free_step", {y, z, v, g}, norm, scalars, 3);
  const ScheduleFree f{.beta1 = options.beta1,
                       .beta2 = static_cast<float>(options.beta2),
                       .rest2 = static_cast<float>(1 - options.beta2),
                       .eps = static_cast<float>(options.eps),
                       .decay = static_cast<float>(options.weight_decay)};
  update<3>(stream(), {y, z, v}, g, norm, scalars, options.max_norm, f);
}

}  // namespace fluxlora::cuda
