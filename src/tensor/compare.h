// SPDX-License-Identifier: Apache-2.0
// How far two tensors are apart. Host memory, f32 or f64.
#pragma once

#include "tensor/tensor.h"

namespace fluxlora {

/// |a - b| / |b| in the 2-norm; infinite if a holds a value that is not finite; |a| if b is zero.
double relative_error(const Tensor& a, const Tensor& b);

/// <a, b> / (|a| |b|).
double cosine(const Tensor& a, const Tensor& b);

/// max |a - b|.
double max_difference(const Tensor& a, const Tensor& b);

}  // namespace fluxlora
