// SPDX-License-Identifier: Apache-2.0
// Copies, fills and conversions.
#include <cstring>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/rows.h"
#include "ops/checks.h"
#include "tensor/quantise.h"

namespace fluxlora {
namespace {

/// Calls row(y_pointer, x_pointer, elements) for each innermost row of two equal shapes, in bytes.
template <typename F>
void for_each_row(const Tensor& y, const Tensor& x, F&& row) {
  const int64_t size = dtype_size(y.dtype());
  auto* const to = static_cast<char*>(y.data());
  const auto* const from = static_cast<const char*>(x.data());
  int64_t shape[4] = {1, 1, 1, 1}, sy[4] = {}, sx[4] = {};
  for (int i = 0; i < y.rank(); ++i) {
    const int at = 4 - y.rank() + i;
    shape[at] = y.dim(i);
    sy[at] = y.stride(i);
    sx[at] = x.stride(i);
  }
  parallel_for(shape[0] * shape[1] * shape[2], row_grain(shape[3]),
               [&](int64_t first, int64_t last) {
                 for (int64_t r = first; r < last; ++r) {
                   const int64_t i2 = r % shape[2], i1 = r / shape[2] % shape[1];
                   const int64_t i0 = r / shape[2] / shape[1];
                   row(to + (i0 * sy[0] + i1 * sy[1] + i2 * sy[2]) * size,
                       from + (i0 * sx[0] + i1 * sx[1] + i2 * sx[2]) * size, shape[3]);
                 }
               });
}

}  // namespace

void CpuOps::copy(const Tensor& y, const Tensor& x) {
  checks::same("copy", y, x);
  const int64_t size = dtype_size(y.dtype());
  for_each_row(y, x, [size](char* to, const char* from, int64_t count) {
    std::memcpy(to, from, static_cast<size_t>(count * size));
  });
}

void CpuOps::fill(const Tensor& y, double value) {
  for_dtype(y.dtype(), [&]<typename T>(T) {
    const T v = static_cast<T>(value);
    for_each_row(y, y, [v](char* to, const char*, int64_t count) {
      std::fill_n(reinterpret_cast<T*>(to), count, v);
    });
  });
}

void CpuOps::cast(const Tensor& y, const Tensor& x) {
  checks::cast(y, x);
  const int64_t to = dtype_size(y.dtype()), from = dtype_size(x.dtype());
  parallel_for(y.size(), 16384, [&](int64_t first, int64_t last) {
    convert(y.dtype(), static_cast<char*>(y.data()) + first * to, x.dtype(),
            static_cast<const char*>(x.data()) + first * from, last - first);
  });
}

void CpuOps::add_scaled(const Tensor& y, const Tensor& x, double alpha) {
  checks::same("add_scaled", y, x);
  for_dtype(y.dtype(), [&]<typename T>(T) {
    const T a = static_cast<T>(alpha);
    for_each_row(y, x, [a](char* to, const char* from, int64_t count) {
      auto* const yr = reinterpret_cast<T*>(to);
      const auto* const xr = reinterpret_cast<const T*>(from);
      for (int64_t i = 0; i < count; ++i) yr[i] += a * xr[i];
    });
  });
}

void CpuOps::quantise(const Weight& w, const Tensor& x) {
  checks::quantise(w, x);
  fluxlora::quantise(w, x);
}

}  // namespace fluxlora
