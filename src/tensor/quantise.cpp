// SPDX-License-Identifier: Apache-2.0
#include "tensor/quantise.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/parallel.h"
#include "tensor/nf4.h"

namespace fluxlora {
namespace {

constexpr float kLargestF8 = 448, kLargestI8 = 127;

float largest_of(const float* x, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest;
}

void quantise_row(const Weight& w, const float* from, int64_t row) {
  const int64_t in = w.in();
  const bool fp8 = w.format == WeightFormat::fp8;
  const float largest = largest_of(from, in);
  const float scale = largest > 0 ? largest / (fp8 ? kLargestF8 : kLargestI8) : 1.0f;
  w.scales.as<float>()[row] = scale;
  auto* const codes = w.values.as<uint8_t>() + row * in;
  if (fp8)
    for (int64_t i = 0; i < in; ++i) codes[i] = f32_to_f8_e4m3(from[i] / scale);
  else
    for (int64_t i = 0; i < in; ++i)
      codes[i] = static_cast<uint8_t>(static_cast<int8_t>(std::nearbyint(from[i] / scale)));
}

/// The code of x / largest: the count of bounds below it.
template <size_t N>
uint8_t code_of(const float (&bounds)[N], float x, float inverse) {
  const float v = std::clamp(x * inverse, -1.0f, 1.0f);
  return static_cast<uint8_t>(std::lower_bound(bounds, bounds + N, v) - bounds);
}

float inverse_of(float largest) {
  return largest > 0 ? 1 / largest : 0;
}

/// The blocks' largest magnitudes, and the codes of their numbers. The last block may be short.
std::vector<float> quantise_nf4_blocks(const Weight& w, const float* from) {
  const int64_t count = w.out() * w.in(), blocks = w.blocks.size();
  std::vector<float> largest(static_cast<size_t>(blocks));
  parallel_for(blocks, 64, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const float* const x = from + b * kNf4Block;
      const int64_t n = std::min(kNf4Block, count - b * kNf4Block);
      largest[static_cast<size_t>(b)] = largest_of(x, n);
      const float inverse = inverse_of(largest[static_cast<size_t>(b)]);
      uint8_t* const bytes = w.values.as<uint8_t>() + b * kNf4Block / 2;
      for (int64_t i = 0; i < n; i += 2)
        bytes[i / 2] = static_cast<uint8_t>(code_of(kNf4.code_bounds, x[i], inverse) << 4 |
                                            code_of(kNf4.code_bounds, x[i + 1], inverse));
    }
  });
  return largest;
}

void quantise_nf4(const Weight& w, const float* from) {
  std::vector<float> largest = quantise_nf4_blocks(w, from);
  double sum = 0;
  for (const float value : largest) sum += double{value};
  const auto mean = static_cast<float>(sum / static_cast<double>(largest.size()));
  const int64_t nested = w.scales.size() - 1, blocks = w.blocks.size();
  w.scales.as<float>()[nested] = mean;
  for (float& value : largest) value -= mean;
  for (int64_t n = 0; n < nested; ++n) {
    const float* const x = largest.data() + n * kNf4Nested;
    const int64_t count = std::min(kNf4Nested, blocks - n * kNf4Nested);
    const float scale = largest_of(x, count), inverse = inverse_of(scale);
    w.scales.as<float>()[n] = scale;
    for (int64_t i = 0; i < count; ++i)
      w.blocks.as<uint8_t>()[n * kNf4Nested + i] = code_of(kNf4.nested_bounds, x[i], inverse);
  }
}

template <typename T>
void read_nf4_row(T* to, const Weight& w, int64_t row) {
  const int64_t in = w.in(), first = row * in;
  const auto* const bytes = w.values.as<const uint8_t>();
  const auto* const scales = w.scales.as<const float>();
  const float mean = scales[w.scales.size() - 1];
  for (int64_t i = 0; i < in;) {
    const int64_t block = (first + i) / kNf4Block;
    const float largest =
        kNf4.nested[w.blocks.as<const uint8_t>()[block]] * scales[block / kNf4Nested] + mean;
    const int64_t end = std::min(in, (block + 1) * kNf4Block - first);
    for (; i < end; ++i) {
      const int byte = bytes[(first + i) / 2];
      to[i] = static_cast<T>(kNf4.code[(first + i) % 2 == 0 ? byte >> 4 : byte & 15] * largest);
    }
  }
}

}  // namespace

void quantise(const Weight& w, const Tensor& source) {
  CHECK(is_quantised(w.format) && source.dtype() == DType::f32 && source.contiguous() &&
            source.rank() == 2 && source.dim(0) == w.out() && source.dim(1) == w.in(),
        "quantise: " + w.values.describe() + " of " + source.describe());
  const auto* const from = source.as<const float>();
  if (w.format == WeightFormat::nf4) return quantise_nf4(w, from);
  parallel_for(w.out(), 1, [&](int64_t first, int64_t last) {
    for (int64_t o = first; o < last; ++o) quantise_row(w, from + o * w.in(), o);
  });
}

void read_row(DType to, void* destination, const Weight& w, int64_t row) {
  const int64_t in = w.in();
  if (w.format == WeightFormat::nf4)
    return to == DType::f64 ? read_nf4_row(static_cast<double*>(destination), w, row)
                            : read_nf4_row(static_cast<float*>(destination), w, row);
  const double scale = w.scales ? double{w.scales.as<const float>()[row]} : 1.0;
  const Tensor from = w.values.slice(0, row, 1);
  if (w.format != WeightFormat::int8)
    return convert(to, destination, from.dtype(), from.data(), in, scale);
  const auto* const codes = from.as<const int8_t>();
  for (int64_t i = 0; i < in; ++i) {
    if (to == DType::f64)
      static_cast<double*>(destination)[i] = scale * codes[i];
    else
      static_cast<float*>(destination)[i] =
          static_cast<float>(scale) * static_cast<float>(codes[i]);
  }
}

}  // namespace fluxlora
