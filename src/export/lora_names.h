// SPDX-License-Identifier: Apache-2.0
// The border of LoRA files: what every program calls the layers (flux-facts 3.1 to 3.6).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/flux/names.h"

namespace fluxlora::exporting {

/// A linear layer, or a run of the parts that diffusers splits it into.
struct Place {
  Network network = Network::transformer;
  /// The layer: BFL's name, or transformers' ("text_model.encoder.layers.0.mlp.fc1",
  /// "encoder.block.0.layer.0.SelfAttention.q") with one part. Sizes of text encoders are 0.
  flux::LinearName layer;
  size_t first = 0, count = 1;  ///< the parts that the name covers
  bool swapped = false;         ///< the name's owner has the halves of the rows exchanged

  int64_t row0() const { return layer.parts[first].row0; }
  int64_t rows() const;
  bool whole() const { return count == layer.parts.size(); }
};

/// Finds the layer that a file's name means, whoever spelled it: BFL's and diffusers' names with
/// dots or underscores, OneTrainer's numbered parts ("img_attn.qkv.0"), XLabs' processors, behind
/// any of the prefixes in use.
class LoraNames {
 public:
  /// Layers get the sizes of `sizes`; its numbers of blocks do not matter.
  explicit LoraNames(const flux::Config& sizes);
  /// `stem` is a tensor's name without the ending ("lora_unet_single_blocks_0_linear1").
  std::optional<Place> find(std::string_view stem) const;

 private:
  struct Meaning {
    Network network;
    size_t layer, first, count;
    bool swapped;
  };
  void add(std::string name, const Meaning& meaning);
  void add_transformer(size_t layer);
  void add_text_encoders();

  std::vector<flux::LinearName> layers_;  // of block 0
  std::map<std::string, Meaning, std::less<>> meanings_;
};

/// What a tensor is to its module.
enum class Piece { a, b, alpha, magnitude, w1, w1_a, w1_b, w2, w2_a, w2_b };

/// A tensor's name cut in two; nothing when the ending is none that is known.
struct StemAndPiece {
  std::string stem;
  Piece piece;
};
std::optional<StemAndPiece> split_key(std::string_view key);

}  // namespace fluxlora::exporting
