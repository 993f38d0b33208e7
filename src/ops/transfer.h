// SPDX-License-Identifier: Apache-2.0
// Copies between host and device that change the type of the numbers on the way.
#pragma once

#include "ops/device.h"

namespace fluxlora {

/// device = host, in the device tensor's own floating type; equal sizes, both contiguous.
void upload_as(Device& device, const Tensor& to, const Tensor& host);

/// host = device, in the host tensor's own floating type.
void download_as(Device& device, const Tensor& host, const Tensor& from);

}  // namespace fluxlora
