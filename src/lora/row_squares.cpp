// SPDX-License-Identifier: Apache-2.0
#include "lora/row_squares.h"

#include <algorithm>

#include "base/parallel.h"
#include "tensor/dtype.h"

namespace fluxlora::lora {
namespace {

constexpr int64_t kRows = 64;  // rows of W at a time

}  // namespace

/// A product with rows of the identity gives rows of W out of any format.
HostTensor row_squares(Device& device, const Weight& weight, DType act) {
  const int64_t out = weight.out(), in = weight.in();
  HostTensor squares(DType::f64, {out});
  const Buffer memory = device.allocate(kRows * (out + in) * dtype_size(act));
  auto* const base = static_cast<char*>(memory.data());
  for (int64_t row0 = 0; row0 < out; row0 += kRows) {
    const int64_t n = std::min(kRows, out - row0);
    const Tensor picks(act, {n, out}, base), rows(act, {n, in}, base + n * out * dtype_size(act));
    device.ops().fill(picks, 0);
    for (int64_t i = 0; i < n; ++i) device.ops().fill(picks.slice(0, i, 1).columns(row0 + i, 1), 1);
    device.ops().linear_dx(rows, picks, weight, Grad::overwrite);
    const HostTensor host(act, {n, in}), wide(DType::f64, {n, in});
    device.download(host.view.data(), rows);
    convert(DType::f64, wide.view.data(), act, host.view.data(), n * in);
    parallel_for(n, 1, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const double* const values = wide.view.as<const double>() + r * in;
        double sum = 0;
        for (int64_t c = 0; c < in; ++c) sum += values[c] * values[c];
        squares.view.as<double>()[row0 + r] = sum;
      }
    });
  }
  return squares;
}

}  // namespace fluxlora::lora
