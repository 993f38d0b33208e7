// SPDX-License-Identifier: Apache-2.0
// Rows of a table by id, and the sinusoids of the flow time.
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/rows.cuh"
#include "ops/checks.h"

namespace fluxlora::cuda {
namespace {

constexpr int kThreads = 256;

/// Grid: x rows of an item, y items. An id outside of the table stops the GPU: ids are ours.
template <int W, typename TO, typename TI>
__global__ void embed_kernel(Rows<TO> y, Rows<const int32_t> ids, Rows<const TI> table) {
  const int64_t t = blockIdx.x, b = blockIdx.y;
  const int64_t id = ids.row(0, b)[t];
  if (id < 0 || id >= table.rows) __trap();
  for (int64_t column = threadIdx.x * W; column < y.columns; column += blockDim.x * W) {
    float v[W];
    load<W>(v, table.row(0, id) + column);
    store<W>(y.row(b, t) + column, v);
  }
}

/// The angles are the CPU's, bit for bit but for the exponential's last: in f32, as the reference
/// has them.
template <typename TO, typename TI>
__global__ void timestep_kernel(Rows<TO> y, const TI* t) {
  const int64_t half = y.columns / 2, b = blockIdx.y;
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= half) return;
  const float exponent = -9.210340371976184f * static_cast<float>(k) / static_cast<float>(half);
  const auto frequency = static_cast<float>(exp(static_cast<double>(exponent)));
  const float angle = __fmul_rn(__fmul_rn(static_cast<float>(t[b]), 1000.0f), frequency);
  y.row(0, b)[k] = from_float<TO>(cosf(angle));
  y.row(0, b)[half + k] = from_float<TO>(sinf(angle));
}

/// Calls f(T{}) for the types that a table of embeddings may have.
template <typename F>
void for_tables(DType dtype, F&& f) {
  if (dtype == DType::f16) return f(__half{});
  for_activations(dtype, f);
}

}  // namespace

void CudaOps::embed(const Tensor& y, const Tensor& ids, const Tensor& table) {
  checks::embed(y, ids, table);
  if (y.size() == 0) return;
  for_activations(y.dtype(), [&]<typename TO>(TO) {
    for_tables(table.dtype(), [&]<typename TI>(TI) {
      const Rows<TO> to(y);
      const Rows<const TI> from(table);
      const Rows<const int32_t> id(ids);
      const dim3 grid(blocks_for(to.rows, 1), static_cast<unsigned>(to.batches));
      if (all_pack(kWidth<TO>, to, from))
        embed_kernel<kWidth<TO>><<<grid, kThreads, 0, stream()>>>(to, id, from);
      else
        embed_kernel<1><<<grid, kThreads, 0, stream()>>>(to, id, from);
      CUDA_CHECK_LAUNCH();
    });
  });
}

void CudaOps::timestep_embed(const Tensor& y, const Tensor& t) {
  checks::timestep_embed(y, t);
  if (y.size() == 0) return;
  for_activations(y.dtype(), [&]<typename T>(T) {
    const Rows<T> to(y);
    const dim3 grid(blocks_for(to.columns / 2, kThreads), static_cast<unsigned>(to.rows));
    if (t.dtype() == DType::f64)
      timestep_kernel<<<grid, kThreads, 0, stream()>>>(to, t.as<const double>());
    else
      timestep_kernel<<<grid, kThreads, 0, stream()>>>(to, t.as<const float>());
    CUDA_CHECK_LAUNCH();
  });
}

}  // namespace fluxlora::cuda
