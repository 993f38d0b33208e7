// SPDX-License-Identifier: Apache-2.0
// GPUs that plans know by name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ops/paper.h"

namespace fluxlora {

struct GpuKind {
  std::string name;            ///< as a part of what the driver calls it: "RTX 4090"
  int64_t memory = 0;          ///< bytes
  std::optional<Rates> rates;  ///< nothing: never measured
};

/// The kind whose name stands in `name` ("NVIDIA GeForce RTX 4090", "rtx 4090"); the longest fits
/// best. Nothing when none does.
std::optional<GpuKind> find_gpu(const std::string& name);

/// All names, for messages.
std::vector<std::string> gpu_names();

/// For a GPU that was never measured: only their proportions count, when a plan is chosen.
Rates assumed_rates();

}  // namespace fluxlora
