// SPDX-License-Identifier: Apache-2.0
// Rows of a table by id, and the sinusoids of the flow time.
#include <cmath>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/rows.h"
#include "ops/checks.h"

namespace fluxlora {

void CpuOps::embed(const Tensor& y, const Tensor& ids, const Tensor& table) {
  checks::embed(y, ids, table);
  for_dtype(y.dtype(), [&]<typename T>(T) {
    const Rows<T> out(y);
    const Rows<const int32_t> id(ids);
    parallel_for(out.total(), row_grain(out.columns), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const int64_t i = id.row(r / ids.dim(1))[r % ids.dim(1)];
        CHECK(i >= 0 && i < table.dim(0), "embed: id outside of the table");
        convert(y.dtype(), out.row(r), table.dtype(), table.slice(0, i, 1).data(), out.columns);
      }
    });
  });
}

/// The arithmetic is that of the reference (diffusers get_timestep_embedding): in f32 for f32.
void CpuOps::timestep_embed(const Tensor& y, const Tensor& t) {
  checks::timestep_embed(y, t);
  for_dtype(y.dtype(), [&]<typename T>(T) {
    const Rows<T> out(y);
    const int64_t half = out.columns / 2;
    for (int64_t b = 0; b < out.total(); ++b) {
      const T time = t.dtype() == DType::f64 ? static_cast<T>(t.as<const double>()[b])
                                             : static_cast<T>(t.as<const float>()[b]);
      for (int64_t k = 0; k < half; ++k) {
        const T exponent = static_cast<T>(-std::log(10000.0)) * static_cast<T>(k);
        const T angle = time * T(1000) * std::exp(exponent / static_cast<T>(half));
        out.row(b)[k] = std::cos(angle);
        out.row(b)[half + k] = std::sin(angle);
      }
    }
  });
}

}  // namespace fluxlora
