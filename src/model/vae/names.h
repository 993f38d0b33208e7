// SPDX-License-Identifier: Apache-2.0
// The names of a VAE's tensors in files: all that another layout has to change (flux-facts 4.3).
#pragma once

#include "model/source.h"

namespace fluxlora {

/// Format strings; {} is the half ("encoder", "decoder") or a level, then the block in it. Levels
/// are counted in the order in which the data passes, or from the largest picture on.
struct VaeNames {
  bool largest_first = false;  ///< the decoder's levels are counted against its data's way
  const char* conv_in = "{}.conv_in";
  const char* down_block = "encoder.down_blocks.{}.resnets.{}";
  const char* downsample = "encoder.down_blocks.{}.downsamplers.0.conv";
  const char* up_block = "decoder.up_blocks.{}.resnets.{}";
  const char* upsample = "decoder.up_blocks.{}.upsamplers.0.conv";
  const char* mid_block = "{}.mid_block.resnets.{}";
  int mid_first = 0;  ///< number of its first block
  const char* attention = "{}.mid_block.attentions.0";
  const char* norm_out = "{}.conv_norm_out";
  const char* conv_out = "{}.conv_out";
  const char* quant_conv = "quant_conv";
  const char* post_quant_conv = "post_quant_conv";
  // Inside a residual block and the attention.
  const char *norm1 = "norm1", *conv1 = "conv1", *norm2 = "norm2", *conv2 = "conv2";
  const char* shortcut = "conv_shortcut";
  const char *attention_norm = "group_norm", *q = "to_q", *k = "to_k", *v = "to_v";
  const char* attention_out = "to_out.0";
};

inline constexpr VaeNames kDiffusersVaeNames{};

/// ae.safetensors and the VAEs inside of ComfyUI's files.
inline constexpr VaeNames kBflVaeNames{.largest_first = true,
                                       .down_block = "encoder.down.{}.block.{}",
                                       .downsample = "encoder.down.{}.downsample.conv",
                                       .up_block = "decoder.up.{}.block.{}",
                                       .upsample = "decoder.up.{}.upsample.conv",
                                       .mid_block = "{}.mid.block_{}",
                                       .mid_first = 1,
                                       .attention = "{}.mid.attn_1",
                                       .norm_out = "{}.norm_out",
                                       .shortcut = "nin_shortcut",
                                       .attention_norm = "norm",
                                       .q = "q",
                                       .k = "k",
                                       .v = "v",
                                       .attention_out = "proj_out"};

/// The layout of this source.
inline const VaeNames& vae_names(const TensorSource& source) {
  return source.contains("encoder.norm_out.weight") ? kBflVaeNames : kDiffusersVaeNames;
}

}  // namespace fluxlora
