// SPDX-License-Identifier: Apache-2.0
// The border: how diffusers spells the transformer's tensors (flux-facts 2.1, 2.2).
#pragma once

#include <string>
#include <vector>

#include "model/flux/config.h"
#include "model/source.h"

namespace fluxlora::flux {

/// Rows of a fused weight that diffusers keeps as a module of its own.
struct DiffusersPart {
  std::string module;  ///< "transformer_blocks.0.attn.to_q"
  int64_t row0, rows;
};

/// One linear layer: BFL's name, its sizes, and the diffusers modules that it is made of.
struct LinearName {
  std::string bfl;  ///< "double_blocks.0.img_attn.qkv"
  int64_t out, in;
  std::vector<DiffusersPart> parts;
  bool swapped_halves = false;  ///< diffusers has the two halves of the rows the other way round
};

/// All linear layers in visit_linears' order.
std::vector<LinearName> linear_names(const Config& config);

/// The norm vectors of a block: BFL's and diffusers' names, without suffix.
struct NormName {
  std::string bfl, diffusers;
};
std::vector<NormName> norm_names(const Config& config);

/// Our names are BFL's ("double_blocks.0.img_attn.qkv.weight", "….norm.query_norm.scale"); this
/// says where diffusers keeps their rows.
NameTable diffusers_table(const Config& config);
/// Whether the transformer's tensors are named as in diffusers.
bool has_diffusers_names(const TensorSource& source);

}  // namespace fluxlora::flux
