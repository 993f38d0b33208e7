// SPDX-License-Identifier: Apache-2.0
#include "model/t5/relative_bias.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/error.h"

namespace fluxlora::t5 {
namespace {

template <typename T>
void fill(const Tensor& bias, const Tensor& table, const T5Config& config) {
  const int64_t H = bias.dim(0), L = bias.dim(1);
  T* out = bias.as<T>();
  for (int64_t h = 0; h < H; ++h) {
    for (int64_t i = 0; i < L; ++i) {
      for (int64_t j = 0; j < L; ++j) {
        const int64_t b = bucket(j - i, config.buckets, config.max_distance);
        *out++ = table.as<T>()[b * H + h];
      }
    }
  }
}

}  // namespace

int64_t bucket(int64_t delta, int64_t buckets, int64_t max_distance) {
  const int64_t half = buckets / 2, exact = half / 2;
  const int64_t first = delta > 0 ? half : 0;
  const int64_t distance = std::abs(delta);
  if (distance < exact) return first + distance;
  // In f32, as the reference: the truncation decides at the borders.
  const float ratio = std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
                      std::log(static_cast<float>(max_distance) / static_cast<float>(exact));
  const auto beyond = static_cast<int64_t>(ratio * static_cast<float>(half - exact));
  return first + std::min(half - 1, exact + beyond);
}

void fill_bias(const Tensor& bias, const Tensor& table, const T5Config& config) {
  CHECK(bias.dtype() == table.dtype(), "t5: one dtype");
  switch (dtype_size(bias.dtype())) {  // numbers are moved, not looked at
    case 8:
      return fill<uint64_t>(bias, table, config);
    case 4:
      return fill<uint32_t>(bias, table, config);
    default:
      return fill<uint16_t>(bias, table, config);
  }
}

}  // namespace fluxlora::t5
