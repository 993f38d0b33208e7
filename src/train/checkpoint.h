// SPDX-License-Identifier: Apache-2.0
// Checkpoints: checkpoints/step-000500/{lora.safetensors, state.safetensors}, whole or not at all.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/error.h"
#include "export/lora_file.h"
#include "train/run_folder.h"
#include "train/state.h"

namespace fluxlora::train {

/// What stands in a file's metadata.
using Metadata = std::map<std::string, std::string>;

/// What a checkpoint says of the run that it belongs to.
struct CheckpointInfo {
  int64_t step = 0;          ///< steps done
  std::string model_hash;    ///< content of the model's folder
  std::string dataset_hash;  ///< content of pictures, captions and their weights
  std::string started;       ///< the run's first start, with output.metadata_dates only
};

/// Writes step `info.step`'s folder: the LoRA in `style` with `lora_metadata`, and everything
/// that the next step needs. Throws Error (environment) when the disk is full: then the folder is
/// not there, and older ones are untouched. Throws not_finite() when a parameter is not finite.
void save_checkpoint(const RunPaths& paths, const CheckpointInfo& info, const State& state,
                     const exporting::FileStyle& style, const Metadata& lora_metadata);

/// The newest checkpoint whose state can be read; nothing if there is none. A damaged one is passed
/// over with a warning in the log.
std::optional<CheckpointInfo> find_checkpoint(const RunPaths& paths);

/// Puts parameters and the optimizer back as they were after `step` steps. Throws Error (bad_input)
/// when the file does not fit.
void load_checkpoint(const RunPaths& paths, int64_t step, State& state);

/// Bytes that a checkpoint takes on the disk.
int64_t checkpoint_bytes(const State& state);

/// "error: training: WHAT at step N is not finite": the stop of a run that went astray.
Error not_finite(const std::string& what, double value, int64_t step);

}  // namespace fluxlora::train
