// SPDX-License-Identifier: Apache-2.0
// Safetensors files that are larger than memory.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace fluxlora {

/// One tensor of a file to be.
struct TensorPlan {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;  ///< empty: a scalar
};

/// Writes a file whole or not at all, one tensor at a time in the order of `plans`: `bytes_of(i)`
/// gives the contiguous bytes of tensor i, which are read before it is called again. Throws Error
/// (environment) when the disk is full or the folder not writable, and what bytes_of throws.
void stream_safetensors(const std::filesystem::path& path, const std::vector<TensorPlan>& plans,
                        const std::map<std::string, std::string>& metadata,
                        const std::function<std::span<const std::byte>(size_t)>& bytes_of);

}  // namespace fluxlora
