// SPDX-License-Identifier: Apache-2.0
// What the updates of parameters share.
#pragma once

#include "tensor/tensor.h"

namespace fluxlora {

/// Element i of scalars in f32 or f64.
inline double scalar(const Tensor& x, int64_t i) {
  return x.dtype() == DType::f64 ? x.as<const double>()[i] : double{x.as<const float>()[i]};
}

/// What gradients of this norm are multiplied by.
inline double clip_factor(const Tensor& norm, double max_norm) {
  const double length = scalar(norm, 0);
  return max_norm > 0 && length > max_norm ? max_norm / length : 1;
}

}  // namespace fluxlora
