// SPDX-License-Identifier: Apache-2.0
// The CUDA backend: one NVIDIA GPU of compute capability 8.0 or newer, bf16 and f32. Includes no
// CUDA header: cuda_absent.cpp stands in for it in a build without CUDA.
#pragma once

#include <memory>
#include <optional>

#include "base/error.h"
#include "ops/device.h"

namespace fluxlora {

/// Why GPU `index` cannot be used: built without CUDA, no driver, a driver that is too old, no GPU,
/// no such GPU, or one that is too old. Nothing when it can. Touches no GPU's memory.
std::optional<Error> cuda_fault(int index);

/// Opens GPU `index`. Throws cuda_fault(index) when it cannot be used.
std::unique_ptr<Device> open_cuda_device(int index);

}  // namespace fluxlora
