// SPDX-License-Identifier: Apache-2.0
// The element types of tensors and files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fluxlora {

enum class DType : uint8_t {
  f64,
  f32,
  bf16,
  f16,
  f8_e4m3,
  f8_e5m2,
  i64,
  i32,
  i16,
  i8,
  u8,
  boolean
};

/// Bytes of one element.
int64_t dtype_size(DType dtype);

/// The name in a safetensors header: "F32", "BF16", "F8_E4M3" ...
std::string_view safetensors_name(DType dtype);

/// The inverse. Throws Error (bad_input, `where` names the file) for a name that it does not know.
DType dtype_from_safetensors(std::string_view name, const std::string& where);

/// Element conversions. Rounding is to nearest, ties to even; fp8 e4m3 saturates at 448.
float bf16_to_f32(uint16_t bits);
uint16_t f32_to_bf16(float value);
float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);
float f8_e4m3_to_f32(uint8_t bits);
uint8_t f32_to_f8_e4m3(float value);
float f8_e5m2_to_f32(uint8_t bits);

/// Converts `count` elements between any two floating types (f64, f32, bf16, f16; f8 as source
/// only), times `scale`, on all threads. The source need not be aligned.
void convert(DType to, void* destination, DType from, const void* source, int64_t count,
             double scale = 1);

}  // namespace fluxlora
