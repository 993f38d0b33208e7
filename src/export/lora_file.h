// SPDX-License-Identifier: Apache-2.0
// LoRA files to and from the adapters of a model, in any layout.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lora/adapter.h"
#include "model/clip/config.h"

namespace fluxlora::exporting {

/// How the files of a run are written.
struct FileStyle {
  std::string format = "diffusers";  ///< one of write_lora's layouts, without "peft"
  DType dtype = DType::f32;          ///< of all tensors
};

/// The layout of every LoKr, which is LyCORIS' own.
inline constexpr const char* kLokrFormat = "simpletuner-lycoris";

/// Throws Error (bad_input) when write_adapters could not write such adapters: a layer has no place
/// in the layout. To be asked before training.
void check_style(const std::vector<lora::AdapterSpec>& specs, const flux::Config& config,
                 const FileStyle& style);

/// Writes every adapter in the layout and type of `style` (write_lora), whole or not at all.
/// Adapters with a start become such of twice the rank, (A; A0) and (B, -B0), which every reader
/// takes. LoKr is in kLokrFormat whatever `style` says. `metadata` is added to the file's, with
/// the sshs hashes of both. Throws Error as write_lora.
void write_adapters(const std::filesystem::path& path, const lora::AdapterSet& adapters,
                    const flux::Config& config, const FileStyle& style,
                    const std::map<std::string, std::string>& metadata);

/// A LoRA read from a file, before it is attached.
struct LoraFile {
  std::vector<lora::AdapterSpec> specs;
  std::vector<HostTensor> A, B;  // per spec, f32: (rank, in), (rows, rank); scale folded into specs
  std::vector<HostTensor> magnitude = {};  // per spec: (rows), empty unless it is a DoRA
  std::map<std::string, std::string> metadata;
};

/// Throws Error (bad_input) naming the file and the key as read_lora_modules, and when a layer is
/// none of this model or of a CLIP of these sizes, or is a LoKr with a whole w2 or a DoRA of CLIP.
/// Other LoKrs come as the LoRA that they are. Without `clip` no text encoder may be changed.
LoraFile read_lora(const std::filesystem::path& path, const flux::Config& config,
                   const std::optional<ClipConfig>& clip = {});

/// Copies `file`'s matrices into adapters [first, first + specs) of the set.
void upload(lora::AdapterSet& adapters, size_t first, const LoraFile& file);

}  // namespace fluxlora::exporting
