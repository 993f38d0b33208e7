// SPDX-License-Identifier: Apache-2.0
// The updates that need sums over the parameters: Prodigy, Adafactor. Sums are taken in a fixed
// order: in f32 within a thread, then in f64.
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/update.cuh"
#include "ops/checks.h"

namespace fluxlora::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 8;  // numbers of a thread's sum
constexpr int64_t kChunk = int64_t{kThreads} * kEach;

__device__ float clip_factor(const float* norm, float max_norm) {
  return max_norm > 0 && *norm > max_norm ? max_norm / *norm : 1.0f;
}

struct ProdigyCall {
  float *m, *v, *s;
  const float *p, *p0, *g, *norm, *scalars;
  int64_t count;
  double beta1, beta2;
  float beta3, max_norm;
};

/// partial[2 block] = { g·(p0 - p), |s|₁ } over a chunk.
__global__ void __launch_bounds__(kThreads) prodigy_kernel(double* partial, ProdigyCall u) {
  const double d = static_cast<double>(u.scalars[0]);
  const float weight = u.scalars[1], clip = clip_factor(u.norm, u.max_norm);
  const float beta1 = static_cast<float>(u.beta1), beta2 = static_cast<float>(u.beta2);
  const float rest1 = static_cast<float>(d * (1 - u.beta1));
  const float rest2 = static_cast<float>(d * d * (1 - u.beta2));
  double sums[2] = {};
#pragma unroll
  for (int n = 0; n < kEach; ++n) {
    const int64_t i = blockIdx.x * kChunk + n * kThreads + threadIdx.x;
    if (i >= u.count) continue;
    const float grad = u.g[i] * clip;
    u.m[i] = beta1 * u.m[i] + rest1 * grad;
    u.v[i] = beta2 * u.v[i] + rest2 * grad * grad;
    const float s = u.beta3 * u.s[i] + weight * grad;
    u.s[i] = s;
    sums[0] += static_cast<double>(grad) * static_cast<double>(u.p0[i] - u.p[i]);
    sums[1] += static_cast<double>(fabsf(s));
  }
  block_sum(sums);
  if (threadIdx.x < 2) partial[2 * blockIdx.x + threadIdx.x] = sums[threadIdx.x];
}

__global__ void __launch_bounds__(1024)
    finish_sums_kernel(float* sums, const double* partial, int64_t count) {
  double total[2] = {};
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    total[0] += partial[2 * i];
    total[1] += partial[2 * i + 1];
  }
  block_sum(total);
  if (threadIdx.x < 2) sums[threadIdx.x] = static_cast<float>(total[threadIdx.x]);
}

__global__ void __launch_bounds__(kThreads)
    prodigy_step_kernel(float* p, const float* m, const float* v, const float* scalars,
                        int64_t count, double weight_decay, double eps_of_d) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const double lr = static_cast<double>(scalars[0]);
  const float decay = static_cast<float>(1 - lr * weight_decay);
  const float eps = static_cast<float>(static_cast<double>(scalars[1]) * eps_of_d);
  p[i] = p[i] * decay - scalars[0] * m[i] / (sqrtf(v[i]) + eps);
}

/// A matrix (R, C) with its factors. `sums` (R): a number for each row.
struct Factored {
  float *p, *row, *column;
  const float *g, *norm, *scalars;
  double* sums;
  int64_t R, C;
  float max_norm, eps_scale, clip_threshold;
  double eps_square, weight_decay;
  bool scale_parameter;
};

/// What all rows share, made by one block between the passes.
struct Shared {
  double row_mean, lr;
  float step, decay;
};

/// Each block a row: row = beta row + (1 - beta) mean(g² + eps); sums = |p|² of the row.
__global__ void __launch_bounds__(kThreads) factor_rows_kernel(Factored u) {
  const int64_t r = blockIdx.x;
  const float clip = clip_factor(u.norm, u.max_norm), beta = u.scalars[1];
  double sums[2] = {};
  for (int64_t c = threadIdx.x; c < u.C; c += kThreads) {
    const float grad = u.g[r * u.C + c] * clip, p = u.p[r * u.C + c];
    sums[0] += static_cast<double>(grad) * static_cast<double>(grad);
    sums[1] += static_cast<double>(p) * static_cast<double>(p);
  }
  block_sum(sums);
  if (threadIdx.x != 0) return;
  const auto mean = static_cast<float>(sums[0] / static_cast<double>(u.C) + u.eps_square);
  u.row[r] = beta * u.row[r] + (1 - beta) * mean;
  u.sums[r] = sums[1];
}

__global__ void __launch_bounds__(kThreads) factor_columns_kernel(Factored u) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= u.C) return;
  const float clip = clip_factor(u.norm, u.max_norm), beta = u.scalars[1];
  double sum = 0;
  for (int64_t r = 0; r < u.R; ++r) {
    const float grad = u.g[r * u.C + c] * clip;
    sum += static_cast<double>(grad) * static_cast<double>(grad);
  }
  const auto mean = static_cast<float>(sum / static_cast<double>(u.R) + u.eps_square);
  u.column[c] = beta * u.column[c] + (1 - beta) * mean;
}

/// The mean of row, and the rate, which may follow the size of p.
__global__ void __launch_bounds__(kThreads) factor_means_kernel(Shared* shared, Factored u) {
  double sums[2] = {};
  for (int64_t r = threadIdx.x; r < u.R; r += kThreads) {
    sums[0] += static_cast<double>(u.row[r]);
    sums[1] += u.sums[r];
  }
  block_sum(sums);
  if (threadIdx.x != 0) return;
  const double rms = sqrt(sums[1] / static_cast<double>(u.R * u.C));
  shared->row_mean = sums[0] / static_cast<double>(u.R);
  shared->lr = static_cast<double>(u.scalars[0]) *
               (u.scale_parameter ? fmax(static_cast<double>(u.eps_scale), rms) : 1.0);
}

__device__ float row_factor(const Factored& u, const Shared& shared, int64_t r) {
  return static_cast<float>(1 / sqrt(static_cast<double>(u.row[r]) / shared.row_mean));
}

__device__ float factored_update(const Factored& u, int64_t at, int64_t c, float clip, float row) {
  return u.g[at] * clip * (row / sqrtf(u.column[c]));
}

__global__ void __launch_bounds__(kThreads)
    update_squares_kernel(const Shared* shared, Factored u) {
  const int64_t r = blockIdx.x;
  const float clip = clip_factor(u.norm, u.max_norm), row = row_factor(u, *shared, r);
  double sum[1] = {};
  for (int64_t c = threadIdx.x; c < u.C; c += kThreads) {
    const auto x = static_cast<double>(factored_update(u, r * u.C + c, c, clip, row));
    sum[0] += x * x;
  }
  block_sum(sum);
  if (threadIdx.x == 0) u.sums[r] = sum[0];
}

__global__ void __launch_bounds__(kThreads) update_size_kernel(Shared* shared, Factored u) {
  double sum[1] = {};
  for (int64_t r = threadIdx.x; r < u.R; r += kThreads) sum[0] += u.sums[r];
  block_sum(sum);
  if (threadIdx.x != 0) return;
  const double rms = sqrt(sum[0] / static_cast<double>(u.R * u.C));
  shared->step =
      static_cast<float>(shared->lr / fmax(1.0, rms / static_cast<double>(u.clip_threshold)));
  shared->decay = static_cast<float>(1 - shared->lr * u.weight_decay);
}

__global__ void __launch_bounds__(kThreads) apply_kernel(const Shared* shared, Factored u) {
  const int64_t r = blockIdx.x;
  const Shared s = *shared;
  const float clip = clip_factor(u.norm, u.max_norm), row = row_factor(u, s, r);
  for (int64_t c = threadIdx.x; c < u.C; c += kThreads) {
    const int64_t at = r * u.C + c;
    u.p[at] = u.p[at] * s.decay - s.step * factored_update(u, at, c, clip, row);
  }
}

void check_f32(const char* op, std::initializer_list<Tensor> tensors) {
  for (const Tensor& x : tensors)
    CHECK(x.dtype() == DType::f32, std::string(op) + ": " + x.describe());
}

}  // namespace

void CudaOps::prodigy_moments(const Tensor& sums, const Tensor& p, const ProdigyState& state,
                              const Tensor& g, const Tensor& norm, const Tensor& scalars,
                              const ProdigyOptions& options) {
  checks::update("prodigy_moments", {p, state.m, state.v, state.s, state.p0, g}, norm, scalars, 2);
  check_f32("prodigy_moments", {sums, p, norm, scalars});
  const ProdigyCall u{.m = state.m.as<float>(),
                      .v = state.v.as<float>(),
                      .s = state.s.as<float>(),
                      .p = p.as<const float>(),
                      .p0 = state.p0.as<const float>(),
                      .g = g.as<const float>(),
                      .norm = norm.as<const float>(),
                      .scalars = scalars.as<const float>(),
                      .count = p.size(),
                      .beta1 = options.beta1,
                      .beta2 = options.beta2,
                      .beta3 = static_cast<float>(options.beta3),
                      .max_norm = static_cast<float>(options.max_norm)};
  const int64_t chunks = (p.size() + kChunk - 1) / kChunk;
  auto* const partial = context_.scratch<double>(Slot::norm, 2 * chunks);
  if (chunks > 0) {
    prodigy_kernel<<<blocks_for(chunks, 1), kThreads, 0, stream()>>>(partial, u);
    CUDA_CHECK_LAUNCH();
  }
  finish_sums_kernel<<<1, 1024, 0, stream()>>>(sums.as<float>(), partial, chunks);
  CUDA_CHECK_LAUNCH();
}

void CudaOps::prodigy_step(const Tensor& p, const ProdigyState& state, const Tensor& scalars,
                           const ProdigyOptions& options) {
  checks::update("prodigy_step", {p, state.m, state.v}, scalars.slice(0, 0, 1), scalars, 2);
  check_f32("prodigy_step", {p, scalars});
  if (p.size() == 0) return;
  prodigy_step_kernel<<<blocks_for(p.size(), kThreads), kThreads, 0, stream()>>>(
      p.as<float>(), state.m.as<const float>(), state.v.as<const float>(),
      scalars.as<const float>(), p.size(), options.weight_decay, options.eps);
  CUDA_CHECK_LAUNCH();
}

void CudaOps::adafactor_step(const Tensor& p, const Tensor& row, const Tensor& column,
                             const Tensor& g, const Tensor& norm, const Tensor& scalars,
                             const AdafactorOptions& options) {
  checks::adafactor_step(p, row, column, g, norm, scalars);
  check_f32("adafactor_step", {p, norm, scalars});
  if (p.size() == 0) return;
  const int64_t R = p.dim(0), C = p.dim(1);
  // Rows' sums, and behind them what the passes share.
  auto* const sums = context_.scratch<double>(Slot::norm, R + 4);
  auto* const shared = reinterpret_cast<Shared*>(sums + R);
  static_assert(sizeof(Shared) <= 4 * sizeof(double));
  const Factored u{.p = p.as<float>(),
                   .row = row.as<float>(),
                   .column = column.as<float>(),
                   .g = g.as<const float>(),
                   .norm = norm.as<const float>(),
                   .scalars = scalars.as<const float>(),
                   .sums = sums,
                   .R = R,
                   .C = C,
                   .max_norm = static_cast<float>(options.max_norm),
                   .eps_scale = static_cast<float>(options.eps_scale),
                   .clip_threshold = static_cast<float>(options.clip_threshold),
                   .eps_square = options.eps_square,
                   .weight_decay = options.weight_decay,
                   .scale_parameter = options.scale_parameter};
  const unsigned rows = blocks_for(R, 1), columns = blocks_for(C, kThreads);
  factor_rows_kernel<<<rows, kThreads, 0, stream()>>>(u);
  factor_columns_kernel<<<columns, kThreads, 0, stream()>>>(u);
  factor_means_kernel<<<1, kThreads, 0, stream()>>>(shared, u);
  update_squares_kernel<<<rows, kThreads, 0, stream()>>>(shared, u);
  update_size_kernel<<<1, kThreads, 0, stream()>>>(shared, u);
  apply_kernel<<<rows, kThreads, 0, stream()>>>(shared, u);
  CUDA_CHECK_LAUNCH();
}

}  // namespace fluxlora::cuda
