// SPDX-License-Identifier: Apache-2.0
// One model with LoRAs inside.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace fluxlora::exporting {

struct WeightedLora {
  std::filesystem::path path;
  double weight = 1;
};

struct MergeOptions {
  /// "same": each matrix keeps the base's format. "f32", "bf16", "f16". "fp8": e4m3 without
  /// scales, and "fp8-scaled": e4m3 with a factor for each matrix as ComfyUI names it (flux-facts
  /// 2.3); both for the matrices of the blocks, the rest is bf16.
  std::string format = "same";
  uint64_t seed = 0;  ///< of the rounding
};

struct Merged {
  int64_t layers = 0;        ///< that the LoRAs changed
  int64_t text_modules = 0;  ///< of text encoders, which stay out of the transformer
  bool unscaled = false;     ///< some of them are e4m3 without a scale of their own
};

/// W + Σ weight (alpha / rank) B A for every layer of the LoRAs (DoRA and LoKr likewise), written
/// to `output`: a file in BFL's names, or, for a name without .safetensors, a folder in diffusers'
/// layout, into which the other parts of the pipeline are copied. `model`: a pipeline's folder, a
/// transformer's folder, a single file, or "tiny". One matrix at a time is in memory. Changed
/// matrices are rounded at random, unbiased (tensor/round_stochastically.h), since a LoRA's change
/// is often smaller than half a step of the format; an fp8 matrix keeps its factor while the merged
/// numbers fit in its range, so that unchanged weights keep their codes. Throws Error (bad_input)
/// for a LoRA that does not fit, a format that is not known, and a folder in fp8.
Merged merge_model(const std::string& model, const std::vector<WeightedLora>& loras,
                   const MergeOptions& options, const std::filesystem::path& output);

}  // namespace fluxlora::exporting
