// SPDX-License-Identifier: Apache-2.0
// Writing a LoRA in the layout of a program: names, alpha, metadata (docs/formats.md).
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "export/lora_modules.h"

namespace fluxlora::exporting {

/// The words for layouts that can be written: "diffusers", "kohya", "comfyui", "ai-toolkit", ...
std::vector<std::string> dialect_names();

/// The layout whose names the file's modules have; "diffusers" when it is none or a mixture.
std::string dialect_of(const LoraModules& file);

/// What writing changed.
struct Written {
  size_t modules = 0;
  /// max over modules of |difference| / |B| where multiplying alpha / rank into B rounded; 0: the
  /// way back is exact.
  double rounding = 0;
  bool has_t5 = false;  ///< modules of T5, which diffusers does not load
};

/// Writes `file` in the layout `dialect`, whole or not at all. Matrices keep their types unless
/// `dtype` is given. A layout without alphas gets alpha / rank in B, and the alphas in the metadata
/// ("fluxlora.alpha"), from which the way back restores them where alpha / rank is a power of two.
/// Metadata goes along; the sshs hashes are made anew where the file has them. `path` is a folder
/// for "peft". Throws Error (bad_input) when `dialect` is none, when a module has no place in it,
/// or a number does not fit into `dtype`; Error (environment) as write_safetensors.
Written write_lora(const std::filesystem::path& path, const LoraModules& file,
                   const std::string& dialect, std::optional<DType> dtype);

/// Throws Error (bad_input) as write_lora would when a module of `file` has no place in `dialect`.
void check_places(const LoraModules& file, const std::string& dialect);

/// Adds sshs_model_hash and sshs_legacy_hash, as sd-scripts' precalculate_safetensors_hashes makes
/// them of the tensors and the ss_ entries (flux-facts 3.2).
void add_hashes(const std::vector<NamedTensor>& tensors,
                std::map<std::string, std::string>& metadata);

}  // namespace fluxlora::exporting
