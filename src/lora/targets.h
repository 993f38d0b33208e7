// SPDX-License-Identifier: Apache-2.0
// Which linear layers get an adapter.
#pragma once

#include <string>
#include <vector>

#include "lora/options.h"
#include "model/flux/names.h"

namespace fluxlora::lora {

/// One adapter to be: rows [row0, row0 + rows) of the linear layer `bfl`.
struct AdapterSpec {
  std::string bfl;  ///< "double_blocks.0.img_attn.qkv"
  std::string
      module;  ///< the module as trained: diffusers' "transformer_blocks.0.attn.to_q", or `bfl`
  int64_t row0 = 0, rows = 0, in = 0;
  int64_t rank = 0;
  double alpha = 0;
  double scale() const { return alpha / static_cast<double>(rank); }
};

/// Whether the pattern fits the whole name or its end after a dot. `*` stands for any run of
/// characters.
bool fits(const std::string& pattern, const std::string& name);

/// The adapters that `options` names, in the model's order. Throws Error (bad_input) when a pattern
/// fits no layer, naming the nearest name.
std::vector<AdapterSpec> select_targets(const flux::Config& config, const Options& options);

}  // namespace fluxlora::lora
