// SPDX-License-Identifier: Apache-2.0
// Copies, fills and conversions.
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/elementwise.cuh"
#include "ops/checks.h"

namespace fluxlora::cuda {

/// Whether this program holds code for the current GPU.
bool code_for_this_gpu();

namespace {

/// A view of up to four dimensions as units of one size: shape, and strides of two tensors. Rows
/// are counted in 32 bits, since each thread divides their numbers.
struct Blocks {
  unsigned shape[4] = {1, 1, 1, 1};
  int64_t to[4] = {}, from[4] = {};
};

/// Grid: x walks the last dimension, y the rows.
template <typename Unit>
__global__ void copy_kernel(Unit* to, const Unit* from, Blocks blocks) {
  const int64_t i3 = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i3 >= blocks.shape[3]) return;
  const unsigned rows = blocks.shape[0] * blocks.shape[1] * blocks.shape[2];
  for (unsigned r = blockIdx.y; r < rows; r += gridDim.y) {
    const unsigned i2 = r % blocks.shape[2], q = r / blocks.shape[2];
    const unsigned i1 = q % blocks.shape[1], i0 = q / blocks.shape[1];
    to[i0 * blocks.to[0] + i1 * blocks.to[1] + i2 * blocks.to[2] + i3] =
        from[i0 * blocks.from[0] + i1 * blocks.from[1] + i2 * blocks.from[2] + i3];
  }
}

/// The widest unit, at most 16 bytes, that divides addresses, strides and the row.
int64_t unit_of(const Tensor& y, const Tensor& x) {
  const int64_t size = dtype_size(y.dtype());
  int64_t unit = 16;
  const auto limit = [&](int64_t bytes) {
    while (bytes % unit != 0) unit /= 2;
  };
  for (const Tensor& t : {y, x}) {
    limit(static_cast<int64_t>(reinterpret_cast<uintptr_t>(t.data()) % 16));
    for (int i = 0; i + 1 < t.rank(); ++i) limit(t.stride(i) * size);
  }
  limit(y.dim(-1) * size);
  return unit;
}

template <typename Unit>
void copy_units(cudaStream_t stream, const Tensor& y, const Tensor& x) {
  const auto unit = static_cast<int64_t>(sizeof(Unit));
  const int64_t size = dtype_size(y.dtype());
  Blocks blocks;
  for (int i = 0; i < y.rank(); ++i) {
    const int at = 4 - y.rank() + i;
    const bool last = at == 3;
    blocks.shape[at] = static_cast<unsigned>(last ? y.dim(i) * size / unit : y.dim(i));
    blocks.to[at] = y.stride(i) * size / unit;
    blocks.from[at] = x.stride(i) * size / unit;
  }
  const int64_t rows = y.size() / y.dim(-1);
  CHECK(rows < (int64_t{1} << 31), "copy of " + y.describe());
  const int threads = static_cast<int>(std::min<int64_t>(256, whole_warps(blocks.shape[3])));
  const dim3 grid(blocks_for(blocks.shape[3], threads),
                  static_cast<unsigned>(std::min<int64_t>(rows, 65535)));
  copy_kernel<<<grid, threads, 0, stream>>>(y.as<Unit>(), x.as<const Unit>(), blocks);
  CUDA_CHECK_LAUNCH();
}

template <typename TO, typename TI, int W>
__global__ void cast_kernel(TO* y, const TI* x, int64_t count) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * W;
  if (i >= count) return;
  float values[W];
  load<W>(values, x + i);
  store<W>(y + i, values);
}

template <typename TO, typename TI>
void cast_to(cudaStream_t stream, const Tensor& y, const Tensor& x) {
  constexpr int kPack = 8;
  Rows<TO> to;
  Rows<const TI> from;
  to.data = y.as<TO>();
  from.data = x.as<const TI>();
  to.columns = from.columns = y.size();
  if (all_pack(kPack, to, from))
    cast_kernel<TO, TI, kPack>
        <<<blocks_for(y.size(), 256 * kPack), 256, 0, stream>>>(to.data, from.data, y.size());
  else
    cast_kernel<TO, TI, 1>
        <<<blocks_for(y.size(), 256), 256, 0, stream>>>(to.data, from.data, y.size());
  CUDA_CHECK_LAUNCH();
}

/// Calls f(T{}) for the types between which `cast` converts.
template <typename F>
void for_floats(DType dtype, F&& f) {
  if (dtype == DType::f16) return f(__half{});
  for_activations(dtype, f);
}

template <typename T>
__global__ void fill_kernel(Rows<T> y, float value) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= y.columns) return;
  for (int64_t b = blockIdx.z; b < y.batches; b += gridDim.z)
    for (int64_t r = blockIdx.y; r < y.rows; r += gridDim.y)
      y.row(b, r)[column] = from_float<T>(value);
}

struct AddScaled {  // y, x
  float alpha;
  __device__ float operator()(const float (&v)[2], int64_t) const {
    return fmaf(alpha, v[1], v[0]);
  }
};

}  // namespace

bool code_for_this_gpu() {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, copy_kernel<uint4>) == cudaSuccess) return true;
  cudaGetLastError();
  return false;
}

void CudaOps::copy(const Tensor& y, const Tensor& x) {
  checks::same("copy", y, x);
  if (y.size() == 0) return;
  if (y.contiguous() && x.contiguous()) {
    CUDA_CHECK(cudaMemcpyAsync(y.data(), x.data(), static_cast<size_t>(y.bytes()),
                               cudaMemcpyDeviceToDevice, stream()));
    return;
  }
  switch (unit_of(y, x)) {
    case 16:
      return copy_units<uint4>(stream(), y, x);
    case 8:
      return copy_units<uint2>(stream(), y, x);
    case 4:
      return copy_units<uint32_t>(stream(), y, x);
    case 2:
      return copy_units<uint16_t>(stream(), y, x);
    default:
      return copy_units<uint8_t>(stream(), y, x);
  }
}

void CudaOps::fill(const Tensor& y, double value) {
  if (y.size() == 0) return;
  if (y.contiguous() && value == 0) {
    CUDA_CHECK(cudaMemsetAsync(y.data(), 0, static_cast<size_t>(y.bytes()), stream()));
    return;
  }
  if (y.rank() == 4 && !y.rows_are_uniform()) {
    for (int64_t i = 0; i < y.dim(0); ++i) fill(y.item(i), value);
    return;
  }
  for_activations(y.dtype(), [&]<typename T>(T) {
    Rows<T> rows(y);
    if (rows.items_are_flat()) rows.merge_items();
    if (rows.rows == 1 && rows.all_is_flat()) rows.merge_all();
    const dim3 grid(blocks_for(rows.columns, 256),
                    static_cast<unsigned>(std::min<int64_t>(rows.rows, 65535)),
                    static_cast<unsigned>(std::min<int64_t>(rows.batches, 65535)));
    fill_kernel<<<grid, 256, 0, stream()>>>(rows, static_cast<float>(value));
    CUDA_CHECK_LAUNCH();
  });
}

void CudaOps::cast(const Tensor& y, const Tensor& x) {
  checks::cast(y, x);
  if (y.size() == 0) return;
  if (y.dtype() == x.dtype()) return copy(y, x);
  for_floats(y.dtype(), [&]<typename TO>(TO) {
    for_floats(x.dtype(), [&]<typename TI>(TI) { cast_to<TO, TI>(stream(), y, x); });
  });
}

void CudaOps::add_scaled(const Tensor& y, const Tensor& x, double alpha) {
  checks::same("add_scaled", y, x);
  elementwise<2>(stream(), y, {y, x}, AddScaled{static_cast<float>(alpha)});
}

}  // namespace fluxlora::cuda
