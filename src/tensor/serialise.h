// SPDX-License-Identifier: Apache-2.0
// The bytes of a safetensors file without a file, for those who hash them.
#pragma once

#include "base/file.h"
#include "tensor/safetensors.h"

namespace fluxlora {

/// Gives `sink` the bytes that write_safetensors writes, the header first and whole; `path` is for
/// messages.
void serialise_safetensors(const std::filesystem::path& path, std::vector<NamedTensor> tensors,
                           const std::map<std::string, std::string>& metadata,
                           const ByteSink& sink);

}  // namespace fluxlora
