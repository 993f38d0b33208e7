// SPDX-License-Identifier: Apache-2.0
// The CPU backend: all cores, f32 and f64, matrix products by BLAS. It is what users without a GPU
// run and what every other backend is tested against.
#pragma once

#include <memory>

#include "ops/device.h"

namespace fluxlora {

std::unique_ptr<Device> open_cpu_device();

}  // namespace fluxlora
