// SPDX-License-Identifier: Apache-2.0
// Ids on their way into an embedding table.
#pragma once

#include <filesystem>
#include <span>

#include "ops/device.h"

namespace fluxlora {

/// Copies ids into `destination` (B, T) i32 of as many elements. Throws Error (bad_input) naming
/// the network at `path` when an id is not below `vocabulary`: tokenizer and encoder do not fit.
void upload_ids(Device& device, const Tensor& destination, std::span<const int32_t> ids,
                int64_t vocabulary, const std::filesystem::path& path);

}  // namespace fluxlora
