// SPDX-License-Identifier: Apache-2.0
// What a LoRA's file says of itself.
#pragma once

#include <cstdint>

#include "train/checkpoint.h"
#include "train/options.h"

namespace fluxlora::train {

/// What is not in a run's options.
struct LoraOrigin {
  int64_t step = 0;      ///< steps done
  int64_t pictures = 0;  ///< that were trained
  bool guided = false;   ///< FLUX.1-dev or -schnell
  std::string identity;  ///< Texts::identity of this model and dataset
  std::string started;   ///< CheckpointInfo::started
};

/// What other programs show of a LoRA: sd-scripts' ss_ entries, Stability's ModelSpec 1.0.1, both
/// after flux-facts 3.2; and what a run of ours is. No path, time or machine.
Metadata lora_metadata(const RunOptions& options, const LoraOrigin& origin);

}  // namespace fluxlora::train
