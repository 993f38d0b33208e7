// SPDX-License-Identifier: Apache-2.0
// Weight: a frozen matrix whose storage format only the backend knows.
#pragma once

#include "tensor/tensor.h"

namespace fluxlora {

enum class WeightFormat { f64, f32, bf16, fp8, int8, nf4 };

/// The format of unquantised weights of this element type.
inline WeightFormat plain_format(DType dtype) {
  if (dtype == DType::f64) return WeightFormat::f64;
  return dtype == DType::bf16 ? WeightFormat::bf16 : WeightFormat::f32;
}

/// Whether a matrix of this format is codes and factors.
inline bool is_quantised(WeightFormat format) {
  return format >= WeightFormat::fp8;
}

/// NF4: numbers that share a largest magnitude, and largest magnitudes that share theirs.
inline constexpr int64_t kNf4Block = 64, kNf4Nested = 256;

/// A frozen (out, in) matrix. Models hold these and hand them to Ops::linear; no model file looks
/// inside.
///   f64, f32, bf16: `values` (out, in).
///   fp8, int8: e4m3 or i8 with a factor a row: row o stands for values[o] scales[o].
///   nf4: 4-bit codes of blocks of 64 numbers, counted along the rows, with double quantisation
///   (tensor/nf4.h); `in` is even.
struct Weight {
  WeightFormat format = WeightFormat::f32;
  Tensor values;  // (out, in); nf4: (out, in / 2) u8, the earlier number in the high half
  Tensor scales =
      {};  // fp8, int8: (out) f32; nf4: (nested + 1) f32, the last is what blocks add to
  Tensor blocks = {};  // nf4: (out in / 64, rounded up) u8, codes of the blocks' largest magnitudes

  int64_t out() const { return values.dim(0); }
  int64_t in() const { return values.dim(1) * (format == WeightFormat::nf4 ? 2 : 1); }
  explicit operator bool() const { return static_cast<bool>(values); }
};

/// What a matrix of these sizes is stored as: NF4 packs two numbers of a row into a byte.
inline WeightFormat stored_format(WeightFormat format, int64_t in) {
  return format == WeightFormat::nf4 && in % 2 != 0 ? WeightFormat::bf16 : format;
}

/// The tensors of a weight of this format: calls f(Tensor Weight::*field, dtype, shape) for each.
template <typename F>
void for_storage(WeightFormat format, int64_t out, int64_t in, F&& f) {
  using Shape = std::initializer_list<int64_t>;
  const int64_t blocks = (out * in + kNf4Block - 1) / kNf4Block;
  switch (format) {
    case WeightFormat::f64:
      return f(&Weight::values, DType::f64, Shape{out, in});
    case WeightFormat::f32:
      return f(&Weight::values, DType::f32, Shape{out, in});
    case WeightFormat::bf16:
      return f(&Weight::values, DType::bf16, Shape{out, in});
    case WeightFormat::fp8:
    case WeightFormat::int8:
      f(&Weight::values, format == WeightFormat::fp8 ? DType::f8_e4m3 : DType::i8, Shape{out, in});
      return f(&Weight::scales, DType::f32, Shape{out});
    case WeightFormat::nf4:
      f(&Weight::values, DType::u8, Shape{out, in / 2});
      f(&Weight::scales, DType::f32, Shape{(blocks + kNf4Nested - 1) / kNf4Nested + 1});
      return f(&Weight::blocks, DType::u8, Shape{blocks});
  }
}

}  // namespace fluxlora
