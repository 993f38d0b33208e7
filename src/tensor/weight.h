// SPDX-License-Identifier: Apache-2.0
// Weight: a frozen matrix whose storage format only the backend knows.
#pragma once

#include "tensor/tensor.h"

namespace fluxlora {

enum class WeightFormat { f64, f32, bf16, fp8 };

/// The format of unquantised weights of this element type.
inline WeightFormat plain_format(DType dtype) {
  if (dtype == DType::f64) return WeightFormat::f64;
  return dtype == DType::bf16 ? WeightFormat::bf16 : WeightFormat::f32;
}

/// The element type of a format's values.
inline DType element_type(WeightFormat format) {
  switch (format) {
    case WeightFormat::f64:
      return DType::f64;
    case WeightFormat::f32:
      return DType::f32;
    case WeightFormat::bf16:
      return DType::bf16;
    case WeightFormat::fp8:
      break;
  }
  return DType::f8_e4m3;
}

/// A frozen (out, in) matrix. `values` is (out, in) in the format's element type. fp8 is e4m3 with
/// a factor a row: row o stands for values[o] scales[o]. Models hold these and hand them to
/// Ops::linear; no model file looks inside.
struct Weight {
  WeightFormat format = WeightFormat::f32;
  Tensor values;       // (out, in)
  Tensor scales = {};  // (out) f32 for fp8, else empty

  int64_t out() const { return values.dim(0); }
  int64_t in() const { return values.dim(1); }
  explicit operator bool() const { return static_cast<bool>(values); }
};

}  // namespace fluxlora
