// SPDX-License-Identifier: Apache-2.0
#include "tensor/round_stochastically.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "base/parallel.h"
#include "base/philox.h"

namespace fluxlora {
namespace {

constexpr uint32_t kPurpose = 0x726F756E;  // apart from those of Draw

/// Digits after the leading one, the exponent of the smallest normal number, the largest number.
struct Grid {
  int digits, lowest;
  float largest;
};

Grid grid_of(DType dtype) {
  if (dtype == DType::f8_e4m3) return {3, -6, 448};
  if (dtype == DType::f16) return {10, -14, 65504};
  return {7, -126, 3.38953139e38f};
}

/// `draw` in [0, 1).
float rounded(float value, const Grid& grid, float draw) {
  const float magnitude = std::min(std::fabs(value), grid.largest);
  const int exponent = static_cast<int>(std::bit_cast<uint32_t>(magnitude) >> 23) - 127;
  const int step = std::max(exponent, grid.lowest) - grid.digits;
  const float steps = std::ldexp(magnitude, -step);
  const float below = std::floor(steps);
  const float chosen = below + (draw < steps - below ? 1.0f : 0.0f);
  return std::copysign(std::min(std::ldexp(chosen, step), grid.largest), value);
}

}  // namespace

void round_stochastically(const Tensor& codes, const Tensor& source, float scale, uint64_t seed,
                          uint32_t matrix) {
  const DType type = codes.dtype();
  CHECK((type == DType::f8_e4m3 || type == DType::bf16 || type == DType::f16) &&
            source.dtype() == DType::f32 && codes.same_shape(source) && codes.rank() == 2 &&
            codes.contiguous() && source.contiguous() && scale > 0,
        "round_stochastically: " + codes.describe() + " of " + source.describe());
  const Grid grid = grid_of(type);
  const int64_t in = codes.dim(1);
  const std::array<uint32_t, 2> key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  parallel_for(codes.dim(0), 1, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const float* from = source.as<const float>() + row * in;
      Philox::Block bits{};
      for (int64_t i = 0; i < in; ++i) {
        if (i % 4 == 0)
          bits = Philox::block(
              {static_cast<uint32_t>(i / 4), kPurpose, matrix, static_cast<uint32_t>(row)}, key);
        const float draw = static_cast<float>(bits[static_cast<size_t>(i % 4)] >> 8) * 0x1p-24f;
        const float value = rounded(from[i] / scale, grid, draw);
        const int64_t at = row * in + i;
        if (type == DType::f8_e4m3)
          codes.as<uint8_t>()[at] = f32_to_f8_e4m3(value);
        else
          codes.as<uint16_t>()[at] = type == DType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
      }
    }
  });
}

}  // namespace fluxlora
