// SPDX-License-Identifier: Apache-2.0
#include "tensor/dtype.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "base/error.h"
#include "base/parallel.h"

namespace fluxlora {
namespace {

struct Info {
  DType dtype;
  int64_t size;
  std::string_view name;
};

constexpr std::array<Info, 12> kInfo{{{DType::f64, 8, "F64"},
                                      {DType::f32, 4, "F32"},
                                      {DType::bf16, 2, "BF16"},
                                      {DType::f16, 2, "F16"},
                                      {DType::f8_e4m3, 1, "F8_E4M3"},
                                      {DType::f8_e5m2, 1, "F8_E5M2"},
                                      {DType::i64, 8, "I64"},
                                      {DType::i32, 4, "I32"},
                                      {DType::i16, 2, "I16"},
                                      {DType::i8, 1, "I8"},
                                      {DType::u8, 1, "U8"},
                                      {DType::boolean, 1, "BOOL"}}};

const Info& info(DType dtype) {
  return kInfo[static_cast<size_t>(dtype)];
}

/// Elements below which the other threads are not worth waking.
constexpr int64_t kGrain = 1 << 16;

/// An element type as convert() reads it: value(stored bits). The small floats' exponents are
/// moved to f32's by a product with a power of two, which sets subnormal numbers right as well, so
/// that loops over them have no branch.
struct F64 {
  using Bits = double;
  static double value(double bits) { return bits; }
  static double bits(double value) { return value; }
};
struct F32 {
  using Bits = float;
  static float value(float bits) { return bits; }
  static float bits(double value) { return static_cast<float>(value); }
  static float bits(float value) { return value; }
};
struct BF16 {
  using Bits = uint16_t;
  static float value(uint16_t bits) {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
  static uint16_t bits(double value) { return bits(static_cast<float>(value)); }
  static uint16_t bits(float value) {
    const uint32_t wide = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16;
    const bool nan = (wide & 0x7FFFFFFF) > 0x7F800000;
    return static_cast<uint16_t>(nan ? (wide >> 16) | 0x40 : rounded);
  }
};
struct F16 {
  using Bits = uint16_t;
  static float value(uint16_t bits) {
    const uint32_t magnitude = bits & 0x7FFFu, sign = (bits & 0x8000u) << 16;
    const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
    const uint32_t special = magnitude >= 0x7C00 ? 0x7F800000u : 0u;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | sign);
  }
  static uint16_t bits(double value) { return f32_to_f16(static_cast<float>(value)); }
};
struct E4M3 {
  using Bits = uint8_t;
  static float value(uint8_t bits) {
    const uint32_t magnitude = bits & 0x7Fu, sign = (bits & 0x80u) << 24;
    const float scaled = std::bit_cast<float>(magnitude << 20) * 0x1p120f;
    const uint32_t special = magnitude == 0x7F ? 0x7FC00000u : 0u;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | sign);
  }
  static uint8_t bits(float value) {
    const uint32_t wide = std::bit_cast<uint32_t>(value), magnitude = wide & 0x7FFFFFFF;
    const uint32_t limited = std::min(magnitude, std::bit_cast<uint32_t>(448.0f));
    // Normal: the exponent's bias goes from 127 to 7, 20 bits of the mantissa go.
    const uint32_t normal =
        ((limited + 0x7FFFF + ((limited >> 20) & 1)) >> 20) - (uint32_t{127 - 7} << 3);
    // Subnormal, multiples of 2^-9: the sum with 2^14 has no smaller digits.
    const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(limited) + 0x1p14f) -
                               std::bit_cast<uint32_t>(0x1p14f);
    const uint32_t finite = limited < std::bit_cast<uint32_t>(0x1p-6f) ? subnormal : normal;
    return static_cast<uint8_t>((magnitude > 0x7F800000 ? 0x7F : finite) | (wide >> 24 & 0x80));
  }
};
struct E5M2 {
  using Bits = uint8_t;
  static float value(uint8_t bits) { return F16::value(static_cast<uint16_t>(bits << 8)); }
};

template <typename To, typename From>
void convert_range(void* destination, const void* source, double scale, int64_t first,
                   int64_t last) {
  auto* to = static_cast<typename To::Bits*>(destination);
  const auto* from = static_cast<const char*>(source);
  // f64 scales in f64, all others in f32, the type of the factors in files.
  using Real = std::conditional_t<std::is_same_v<typename To::Bits, double>, double, float>;
  const Real factor = static_cast<Real>(scale);
  for (int64_t i = first; i < last; ++i) {
    typename From::Bits bits;  // mapped files need not align their tensors
    std::memcpy(&bits, from + i * static_cast<int64_t>(sizeof bits), sizeof bits);
    to[i] = To::bits(static_cast<Real>(From::value(bits)) * factor);
  }
}

/// Calls f(From{}) for the element type.
template <typename F>
void with_source(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f(F64{});
    case DType::f32:
      return f(F32{});
    case DType::bf16:
      return f(BF16{});
    case DType::f16:
      return f(F16{});
    case DType::f8_e4m3:
      return f(E4M3{});
    default:
      return f(E5M2{});
  }
}

bool is_floating(DType d) {
  return d <= DType::f8_e5m2;
}

}  // namespace

int64_t dtype_size(DType dtype) {
  return info(dtype).size;
}

std::string_view safetensors_name(DType dtype) {
  return info(dtype).name;
}

DType dtype_from_safetensors(std::string_view name, const std::string& where) {
  for (const Info& i : kInfo)
    if (i.name == name) return i.dtype;
  throw bad_input(where, "has a tensor of the unknown type \"" + std::string(name) + "\"",
                  "F32, F16, BF16, F8_E4M3 and F8_E5M2 are read; formats with scales of their own "
                  "type (mxfp8, mxfp4, nvfp4) are not");
}

float bf16_to_f32(uint16_t bits) {
  return BF16::value(bits);
}

uint16_t f32_to_bf16(float value) {
  return BF16::bits(value);
}

float f16_to_f32(uint16_t bits) {
  return F16::value(bits);
}

uint16_t f32_to_f16(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return sign | 0x7E00;
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0f) return sign | 0x7C00;
  if (magnitude < 0x1p-25f) return sign;
  const int exponent = std::max(std::ilogb(magnitude), -14);
  const auto mantissa = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  // A mantissa that rounds up to 2^11 carries into the exponent by plain addition.
  return sign | static_cast<uint16_t>(static_cast<uint32_t>(exponent + 14) * 1024 + mantissa);
}

float f8_e4m3_to_f32(uint8_t bits) {
  return E4M3::value(bits);
}

uint8_t f32_to_f8_e4m3(float value) {
  return E4M3::bits(value);
}

float f8_e5m2_to_f32(uint8_t bits) {
  return E5M2::value(bits);
}

void convert(DType to, void* destination, DType from, const void* source, int64_t count,
             double scale) {
  CHECK(is_floating(to) && is_floating(from), "convert: floating types only");
  if (to == from && scale == 1) {
    const int64_t size = dtype_size(to);
    parallel_for(count, kGrain, [&](int64_t first, int64_t last) {
      std::memcpy(static_cast<char*>(destination) + first * size,
                  static_cast<const char*>(source) + first * size,
                  static_cast<size_t>((last - first) * size));
    });
    return;
  }
  const auto run = [&](auto to_type) {
    using To = decltype(to_type);
    with_source(from, [&](auto from_type) {
      parallel_for(count, kGrain, [&](int64_t first, int64_t last) {
        convert_range<To, decltype(from_type)>(destination, source, scale, first, last);
      });
    });
  };
  switch (to) {
    case DType::f64:
      return run(F64{});
    case DType::f32:
      return run(F32{});
    case DType::bf16:
      return run(BF16{});
    case DType::f16:
      return run(F16{});
    default:
      CHECK(false, "convert: fp8 is written by quantisation");
  }
}

}  // namespace fluxlora
