// SPDX-License-Identifier: Apache-2.0
#include "tensor/quantise.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/parallel.h"

namespace fluxlora {

void quantise_rows(const Tensor& values, const Tensor& scales, const Tensor& source) {
  CHECK(values.dtype() == DType::f8_e4m3 && source.dtype() == DType::f32 &&
            scales.dtype() == DType::f32 && values.same_shape(source) && values.contiguous() &&
            source.contiguous() && scales.size() == values.dim(0),
        "quantise_rows: " + values.describe() + " of " + source.describe());
  const int64_t in = values.dim(1);
  parallel_for(values.dim(0), 1, [&](int64_t first, int64_t last) {
    for (int64_t o = first; o < last; ++o) {
      const float* from = source.as<const float>() + o * in;
      uint8_t* to = values.as<uint8_t>() + o * in;
      float largest = 0;
      for (int64_t i = 0; i < in; ++i) largest = std::max(largest, std::fabs(from[i]));
      const float scale = largest > 0 ? largest / 448.0f : 1.0f;
      scales.as<float>()[o] = scale;
      for (int64_t i = 0; i < in; ++i) to[i] = f32_to_f8_e4m3(from[i] / scale);
    }
  });
}

}  // namespace fluxlora
