// SPDX-License-Identifier: Apache-2.0
// Linear algebra on the host for LoRA files.
#pragma once

#include "tensor/buffer.h"

namespace fluxlora::exporting {

/// c (m, n) = scale a (m, k) b (k, n), all contiguous f32. Rows are cut into pieces of one size, so
/// that the result does not depend on the number of threads.
void multiply(const Tensor& c, const Tensor& a, const Tensor& b, float scale);

}  // namespace fluxlora::exporting
