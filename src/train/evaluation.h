// SPDX-License-Identifier: Apache-2.0
// `fluxlora evaluate`: every checkpoint of a run measured alike, and what that means.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "eval/verdict.h"
#include "ops/device.h"
#include "train/options.h"

namespace fluxlora::train {

struct Evaluation {
  double base_loss = 0;                     ///< of the held-out pictures without a LoRA
  std::optional<double> base_similarity;    ///< Measures::similarity of its samples without one
  std::vector<eval::Measures> checkpoints;  ///< by step
  size_t best = 0;                          ///< index of the one to use
  std::vector<std::string> prompts;         ///< of the grid's columns, those with the trigger first
  std::filesystem::path grid;               ///< the base and each checkpoint by prompt
};

/// Measures every checkpoint that is left in the run's folder and paints evaluation.png there.
/// `options` are those of its config.toml; `features` is an ONNX file that looks at pictures
/// (caption/picture_features.h), or empty. Throws Error (bad_input) for a run without checkpoints,
/// one that held no picture out, or pictures that are not those it began with.
Evaluation evaluate_run(Device& device, const RunOptions& options,
                        const std::function<void(const std::string&)>& progress,
                        const std::filesystem::path& features = {});

}  // namespace fluxlora::train
