// SPDX-License-Identifier: Apache-2.0
// Which linear layers get an adapter.
#pragma once

#include <string>
#include <vector>

#include "lora/options.h"
#include "model/clip/config.h"
#include "model/flux/names.h"

namespace fluxlora::lora {

/// One adapter to be: rows [row0, row0 + rows) of the linear layer `bfl`.
struct AdapterSpec {
  std::string bfl;  ///< "double_blocks.0.img_attn.qkv"; CLIP's: transformers' name, "text_model..."
  /// The module as trained: diffusers' "transformer_blocks.0.attn.to_q", or `bfl`; of CLIP
  /// "text_encoder.text_model.encoder.layers.0.mlp.fc1".
  std::string module;
  int64_t row0 = 0, rows = 0, in = 0;
  int64_t rank = 0;
  double alpha = 0;
  bool dora = false;
  int64_t factor = 0;  ///< LoKr: W1 has at most so many rows and columns; 0: not a LoKr
  double scale() const { return alpha / static_cast<double>(rank); }
};

/// Whether the pattern fits the whole name or its end after a dot. `*` stands for any run of
/// characters, {A-B} for each whole number from A to B.
bool fits(const std::string& pattern, const std::string& name);
/// Whether it fits the module, or the layer by BFL's name.
bool fits(const std::string& pattern, const AdapterSpec& spec);

/// A number for the layers that a pattern fits.
struct NumberFor {
  std::string pattern;
  double number = 0;
  bool used = false;  ///< whether it was for any layer: for the caller to keep
};
/// Reads "PATTERN = NUMBER" lines, the value of the setting `key`. Throws Error (bad_input) for a
/// line that is none, or whose number is negative or not finite.
std::vector<NumberFor> numbers_by_pattern(const std::string& key,
                                          const std::vector<std::string>& lines);

/// DoRA and LoKr train inside the blocks alone, since outputs are kept there for DoRA, and LoKr of
/// diffusers' modules alone, since no file has room for another. Throws Error (bad_input)
/// otherwise.
void check_places(const std::vector<AdapterSpec>& specs);

/// What CLIP's module names begin with, here and in diffusers' files.
inline constexpr const char* kTextEncoder = "text_encoder.";
/// Whether the adapter is one of CLIP's.
bool is_clip(const AdapterSpec& spec);
/// Whether any of them is.
bool has_clip(const std::vector<AdapterSpec>& specs);

/// The adapters that `options` names, in the model's order: with options.text_encoder also those of
/// every linear layer of a CLIP of these sizes, after the transformer's. rsLoRA's factor
/// (Kalajdzievski 2023) is in alpha, which is sqrt(rank) times as large, so that every reader's
/// alpha / rank gives it. Throws Error (bad_input) when a pattern fits no layer, naming the nearest
/// name, or a rank is no whole number from 1.
std::vector<AdapterSpec> select_targets(const flux::Config& config, const Options& options,
                                        const ClipConfig& clip = {});

}  // namespace fluxlora::lora
