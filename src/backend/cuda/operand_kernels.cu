// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/elementwise.cuh"
#include "backend/cuda/operand_kernels.h"
#include "backend/cuda/rows.cuh"

namespace fluxlora::cuda {
namespace {

template <typename TO, typename TI>
__global__ void scale_matrix_kernel(TO* out, Rows<const TI> a, float value, const float* factor) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.rows * a.columns) return;
  const float by = factor ? value * factor[0] : value;
  out[i] = from_float<TO>(by * to_float(a.row(0, i / a.columns)[i % a.columns]));
}

__global__ void add_scaled_by_kernel(Rows<float> y, const float* x, float value,
                                     const float* factor, bool add) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= y.rows * y.columns) return;
  float* const to = y.row(0, i / y.columns) + i % y.columns;
  const float by = value * factor[0];
  if (add && by != 0)
    *to += by * x[i];
  else if (!add)
    *to = by != 0 ? by * x[i] : 0.0f;
}

__global__ void fill_ones_kernel(float* y, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) y[i] = 1.0f;
}

/// Grid: x walks (tap, channel packs) of a row of columns, y the rows.
template <typename Unit>
__global__ void unfold_kernel(Unit* columns, const Unit* x, Unfold u) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t width = u.kernel_height * u.kernel_width * u.channels;
  if (c >= width) return;
  const int64_t tap = c / u.channels, channel = c % u.channels;
  const int64_t dy = tap / u.kernel_width - u.pad, dx = tap % u.kernel_width - u.pad;
  const int64_t rows = u.count * u.out_width;
  for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    const int64_t row = (u.first + r / u.out_width) * u.stride + dy;
    const int64_t column = r % u.out_width * u.stride + dx;
    const bool inside = row >= 0 && row < u.height && column >= 0 && column < u.width;
    columns[r * width + c] = inside ? x[(row * u.width + column) * u.channels + channel] : Unit{};
  }
}

template <typename Unit>
void unfold_units(cudaStream_t stream, const Tensor& columns, const Tensor& x, Unfold u,
                  int64_t per_unit) {
  u.channels /= per_unit;
  const int64_t width = u.kernel_height * u.kernel_width * u.channels;
  const int threads = std::min(256, whole_warps(width));
  const dim3 grid(blocks_for(width, threads),
                  static_cast<unsigned>(std::min<int64_t>(u.count * u.out_width, 65535)));
  unfold_kernel<<<grid, threads, 0, stream>>>(columns.as<Unit>(), x.as<const Unit>(), u);
  CUDA_CHECK_LAUNCH();
}

}  // namespace

void scale_matrix(cudaStream_t stream, const Tensor& out, const Tensor& a, double value,
                  const float* factor) {
  CHECK(out.contiguous(), "scale_matrix: " + out.describe());
  for_activations(out.dtype(), [&]<typename TO>(TO) {
    for_activations(a.dtype(), [&]<typename TI>(TI) {
      scale_matrix_kernel<<<blocks_for(out.size(), 256), 256, 0, stream>>>(
          out.as<TO>(), Rows<const TI>(a), static_cast<float>(value), factor);
    });
  });
  CUDA_CHECK_LAUNCH();
}

void add_scaled_by(cudaStream_t stream, const Tensor& y, const float* x, double value,
                   const float* factor, bool add) {
  add_scaled_by_kernel<<<blocks_for(y.size(), 256), 256, 0, stream>>>(
      Rows<float>(y), x, static_cast<float>(value), factor, add);
  CUDA_CHECK_LAUNCH();
}

void fill_ones(cudaStream_t stream, float* y, int64_t n) {
  fill_ones_kernel<<<blocks_for(n, 256), 256, 0, stream>>>(y, n);
  CUDA_CHECK_LAUNCH();
}

void unfold(cudaStream_t stream, const Tensor& columns, const Tensor& x, const Unfold& u) {
  CHECK(x.dtype() == columns.dtype() && x.contiguous() && columns.contiguous(),
        "unfold: " + x.describe());
  const int64_t per_unit = 16 / dtype_size(x.dtype());
  const bool packed = u.channels % per_unit == 0 &&
                      reinterpret_cast<uintptr_t>(x.data()) % 16 == 0 &&
                      reinterpret_cast<uintptr_t>(columns.data()) % 16 == 0;
  if (packed)
    unfold_units<uint4>(stream, columns, x, u, per_unit);
  else if (dtype_size(x.dtype()) == 4)
    unfold_units<uint32_t>(stream, columns, x, u, 1);
  else
    unfold_units<uint16_t>(stream, columns, x, u, 1);
}

}  // namespace fluxlora::cuda
