// SPDX-License-Identifier: Apache-2.0
// Nearest-neighbour enlargement of channel-last pictures.
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/rows.cuh"
#include "ops/checks.h"

namespace fluxlora::cuda {
namespace {

constexpr int kThreads = 256;

/// A pixel is `units` units. Each thread reads one unit of x and writes it four times. Grid: x the
/// units of a row of x, y rows.
template <typename Unit>
__global__ void upsample_kernel(Unit* y, const Unit* x, int64_t rows, int64_t width,
                                unsigned units) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= width * units) return;
  const int64_t pixel = i / units, unit = i % units, out_row = 2 * width * units;
  for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    const Unit value = x[r * width * units + i];
    Unit* const to = y + 2 * r * out_row + 2 * pixel * units + unit;
    to[0] = to[units] = value;
    to[out_row] = to[out_row + units] = value;
  }
}

template <typename Unit>
void upsample(cudaStream_t stream, const Tensor& y, const Tensor& x) {
  const int64_t rows = x.dim(0) * x.dim(1), width = x.dim(2);
  const int64_t units = x.dim(3) * dtype_size(x.dtype()) / static_cast<int64_t>(sizeof(Unit));
  CHECK(width * units < (int64_t{1} << 31), "upsample2x of " + x.describe());
  const dim3 grid(blocks_for(width * units, kThreads),
                  static_cast<unsigned>(std::min<int64_t>(rows, 65535)));
  upsample_kernel<<<grid, kThreads, 0, stream>>>(y.as<Unit>(), x.as<const Unit>(), rows, width,
                                                 static_cast<unsigned>(units));
  CUDA_CHECK_LAUNCH();
}

}  // namespace

void CudaOps::upsample2x(const Tensor& y, const Tensor& x) {
  checks::upsample2x(y, x);
  if (x.size() == 0) return;
  const int64_t size = dtype_size(x.dtype());
  const auto aligned = [](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.data()) % 16 == 0;
  };
  if (x.dim(3) * size % 16 == 0 && aligned(x) && aligned(y)) return upsample<uint4>(stream(), y, x);
  CHECK(size == 4 || size == 2, "upsample2x of " + x.describe());
  if (size == 4) return upsample<uint32_t>(stream(), y, x);
  upsample<uint16_t>(stream(), y, x);
}

}  // namespace fluxlora::cuda
