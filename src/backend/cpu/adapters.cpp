// SPDX-License-Identifier: Apache-2.0
// What adapters need beside products: dropout, and DoRA's scaling of rows.
#include <cmath>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/simd.h"
#include "base/philox.h"
#include "ops/checks.h"

namespace fluxlora {

void CpuOps::dropout(const Tensor& x, const DropoutOptions& options) {
  checks::dropout(x, options);
  const auto* const draw = options.draw.as<const int32_t>();
  if (draw[0] == 0) return;
  const std::array<uint32_t, 2> key{static_cast<uint32_t>(draw[1]), static_cast<uint32_t>(draw[2])};
  const auto threshold = static_cast<uint32_t>(options.rate * 4294967296.0);
  for_dtype(x.dtype(), [&]<typename T>(T) {
    const Rows<T> rows(x);
    const T kept = static_cast<T>(1 / (1 - options.rate));
    parallel_for(rows.total(), row_grain(rows.columns), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        T* const values = rows.row(r);
        Philox::Block block{};
        for (int64_t c = 0; c < rows.columns; ++c) {
          const int64_t i = r * rows.columns + c;
          if (c == 0 || i % 4 == 0)
            block = Philox::block({static_cast<uint32_t>(i / 4), adapter_draw(options.layer),
                                   static_cast<uint32_t>(draw[3]), static_cast<uint32_t>(draw[4])},
                                  key);
          values[c] = block[static_cast<size_t>(i % 4)] < threshold ? T(0) : values[c] * kept;
        }
      }
    });
  });
}

void CpuOps::dora_gain(const Tensor& gain, const Tensor& scaled_b, const Tensor& magnitude,
                       const RowNorms& norms) {
  checks::dora_gain(gain, scaled_b, magnitude, norms);
  for_dtype(norms.B.dtype(), [&]<typename T>(T) {
    const Rows<T> b(norms.B), to(scaled_b), second(norms.second), cross(norms.cross);
    const T *const square = norms.square.as<const T>(), *const target = magnitude.as<const T>();
    const T s = static_cast<T>(norms.scale);
    parallel_for(b.rows, row_grain(4 * b.columns), [&](int64_t first, int64_t last) {
      for (int64_t o = first; o < last; ++o) {
        T sum = square[o];
        for (int64_t r = 0; r < b.columns; ++r)
          sum += s * b.row(o)[r] * (2 * cross.row(r)[o] + s * second.row(o)[r]);
        const T g = target[o] / std::sqrt(sum);
        gain.as<T>()[o] = g;
        for (int64_t r = 0; r < b.columns; ++r) to.row(o)[r] = g * b.row(o)[r];
      }
    });
  });
}

void CpuOps::dora_scale(const Tensor& y, const Tensor& bias, const DoraScale& dora) {
  checks::dora_scale(y, bias, dora);
  const double m = double{dora.multiplier.as<const float>()[0]};
  if (m == 0) return;
  for_dtype(y.dtype(), [&]<typename T>(T) {
    const Rows<T> rows(y);
    const T *const g = dora.gain.as<const T>(), *const b = bias ? bias.as<const T>() : nullptr;
    const T share = static_cast<T>(m);
    parallel_for(rows.total(), row_grain(rows.columns), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        T* const v = rows.row(r);
        for (int64_t c = 0; c < rows.columns; ++c)
          v[c] += share * (g[c] - T(1)) * (b ? v[c] - b[c] : v[c]);
      }
    });
  });
}

void CpuOps::dora_scale_bwd(const Tensor& dy, const Tensor& d_magnitude, const Tensor& y,
                            const Tensor& bias, const DoraScale& dora) {
  checks::dora_scale_bwd(dy, d_magnitude, y, bias, dora);
  const double m = double{dora.multiplier.as<const float>()[0]};
  for_dtype(dy.dtype(), [&]<typename T>(T) {
    const Rows<T> d(dy), out(y);
    const T *const g = dora.gain.as<const T>(), *const b = bias ? bias.as<const T>() : nullptr;
    const T share = static_cast<T>(m);
    // By columns, so that the sums over tokens do not depend on the thread count.
    parallel_for(d.columns, 64, [&](int64_t first, int64_t last) {
      std::vector<double> sums(static_cast<size_t>(last - first));
      for (int64_t r = 0; r < d.total(); ++r) {
        T* const slope = d.row(r);
        const T* const v = out ? out.row(r) : nullptr;
        for (int64_t c = first; c < last; ++c) {
          if (v)
            sums[static_cast<size_t>(c - first)] +=
                double{slope[c]} * double{b ? v[c] - b[c] : v[c]};
          slope[c] *= T(1) + share * (g[c] - T(1));
        }
      }
      for (int64_t c = first; d_magnitude && c < last; ++c) {
        const double target = double{dora.magnitude.as<const T>()[c]};
        if (target != 0)
          d_magnitude.as<T>()[c] += static_cast<T>(sums[static_cast<size_t>(c - first)] / target);
      }
    });
  });
}

}  // namespace fluxlora
