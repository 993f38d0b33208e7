// SPDX-License-Identifier: Apache-2.0
// What the tensors of a LoRA file say, whichever trainer wrote it (flux-facts 3.1, 3.2).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tensor/safetensors.h"

namespace fluxlora::cli {

enum class LoraDialect { none, diffusers, kohya, other };

/// By the names of the tensors: `.lora_A.weight` below `transformer.` or `text_encoder.` is
/// diffusers', `.lora_down.weight` below `lora_` is kohya's.
LoraDialect lora_dialect(const SafetensorsFile& file);

/// One module with its two matrices.
struct LoraLayer {
  std::string name;        ///< "transformer.transformer_blocks.0.attn.to_q"
  std::string block_type;  ///< the same with `*` for the number of the block
  int64_t rank = 0, in = 0, out = 0;
  double alpha = 0;  ///< as the file says; the rank when it says nothing
  double scale() const { return rank > 0 ? alpha / static_cast<double>(rank) : 0; }
  double norm = 0;     ///< Frobenius norm of scale B A; NaN when a number is not finite
  double largest = 0;  ///< largest absolute number of A and B
  bool dead() const { return norm == 0; }
  bool finite() const;
};

struct LoraLayers {
  std::vector<LoraLayer> layers;    ///< by name, block numbers counted as numbers
  std::vector<std::string> broken;  ///< "NAME: what is wrong": half a pair, shapes that do not fit
};

/// Reads all pairs, in f64. Alpha is taken from `.alpha` tensors, else from the metadata
/// `lora_adapter_metadata` (PEFT's LoraConfig), else it is the rank. Throws Error (bad_input) for
/// a file whose numbers cannot be read.
LoraLayers read_lora_layers(const SafetensorsFile& file);

}  // namespace fluxlora::cli
