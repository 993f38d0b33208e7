// SPDX-License-Identifier: Apache-2.0
// LoRA files to and from the adapters of a model. Written: diffusers/PEFT layout (flux-facts 3.1).
// Read: any (export/lora_modules.h).
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lora/adapter.h"
#include "model/clip/config.h"

namespace fluxlora::exporting {

/// Writes `transformer.<module>.lora_A.weight` and `.lora_B.weight` of every adapter as `dtype`
/// (CLIP's under `text_encoder.`), a
/// DoRA's `.lora_magnitude_vector` too, whole or not at all. Adapters with a start become such of
/// twice the rank, (A; A0) and (B, -B0), which every reader takes. LoKr is written in LyCORIS' own
/// layout. alpha/rank is multiplied into lora_B, since a file without alpha means scale 1 to every
/// reader; the original alpha is in the metadata. `metadata` is added to the file's, with the
/// sshs hashes of both.
void write_adapters(const std::filesystem::path& path, const lora::AdapterSet& adapters,
                    const flux::Config& config, DType dtype,
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
