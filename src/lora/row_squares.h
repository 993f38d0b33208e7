// SPDX-License-Identifier: Apache-2.0
// The squared norms of a frozen matrix's rows, whatever its format.
#pragma once

#include "ops/device.h"

namespace fluxlora::lora {

/// |W|² by rows, f64 (out) on the host, W (out, in) as the device's products read it. `act` is the
/// dtype of activations.
HostTensor row_squares(Device& device, const Weight& weight, DType act);

}  // namespace fluxlora::lora
