// SPDX-License-Identifier: Apache-2.0
// Out of a model's files into its weights: the shape is checked, the error names the file.
#pragma once

#include <string>
#include <vector>

#include "ops/device.h"
#include "tensor/safetensors.h"

namespace fluxlora {

/// Throws Error (bad_input) naming the file, the tensor, the expected and the found shape, unless
/// the tensor is there in this shape. Reads headers alone. Sizes of 1 at the end are ignored on
/// both sides, so that a 1x1 convolution can stand for a linear layer.
void check_tensor(const SafetensorsSet& files, const std::string& name,
                  const std::vector<int64_t>& shape);

/// The tensor as `dtype` on the host, checked in this way.
HostTensor read_checked(const SafetensorsSet& files, const std::string& name,
                        const std::vector<int64_t>& shape, DType dtype);

/// The same, copied into `destination` (contiguous, device memory), whose shape is expected.
void load_tensor(Device& device, const Tensor& destination, const SafetensorsSet& files,
                 const std::string& name);

}  // namespace fluxlora
