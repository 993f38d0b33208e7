// SPDX-License-Identifier: Apache-2.0
#include "tensor/dtype.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"

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

/// A small float of `exponent_bits` and `mantissa_bits`, without the special values.
float decode_small(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const bool negative = (bits >> (exponent_bits + mantissa_bits)) & 1;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), 1 - bias - mantissa_bits)
                              : std::ldexp(static_cast<float>(mantissa | (1u << mantissa_bits)),
                                           exponent - bias - mantissa_bits);
  return negative ? -magnitude : magnitude;
}

float load(DType from, const void* source, int64_t i) {
  switch (from) {
    case DType::bf16:
      return bf16_to_f32(static_cast<const uint16_t*>(source)[i]);
    case DType::f16:
      return f16_to_f32(static_cast<const uint16_t*>(source)[i]);
    case DType::f8_e4m3:
      return f8_e4m3_to_f32(static_cast<const uint8_t*>(source)[i]);
    case DType::f8_e5m2:
      return f8_e5m2_to_f32(static_cast<const uint8_t*>(source)[i]);
    case DType::f32:
      return static_cast<const float*>(source)[i];
    default:
      return static_cast<float>(static_cast<const double*>(source)[i]);
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
                  "save it as F32, F16, BF16 or F8_E4M3");
}

float bf16_to_f32(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

float f16_to_f32(uint16_t bits) {
  if ((bits & 0x7C00) == 0x7C00) {
    const float magnitude = (bits & 0x3FF) ? std::nanf("") : INFINITY;
    return (bits & 0x8000) ? -magnitude : magnitude;
  }
  return decode_small(bits, 5, 10);
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
  return (bits & 0x7F) == 0x7F ? std::nanf("") : decode_small(bits, 4, 3);
}

float f8_e5m2_to_f32(uint8_t bits) {
  return f16_to_f32(static_cast<uint16_t>(bits << 8));
}

void convert(DType to, void* destination, DType from, const void* source, int64_t count) {
  CHECK(is_floating(to) && is_floating(from), "convert: floating types only");
  if (to == from) {
    std::memcpy(destination, source, static_cast<size_t>(count * dtype_size(to)));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    switch (to) {
      case DType::f64:
        static_cast<double*>(destination)[i] = load(from, source, i);
        break;
      case DType::f32:
        static_cast<float*>(destination)[i] = load(from, source, i);
        break;
      case DType::bf16:
        static_cast<uint16_t*>(destination)[i] = f32_to_bf16(load(from, source, i));
        break;
      case DType::f16:
        static_cast<uint16_t*>(destination)[i] = f32_to_f16(load(from, source, i));
        break;
      default:
        CHECK(false, "convert: fp8 is written by quantisation");
    }
  }
}

}  // namespace fluxlora
