// SPDX-License-Identifier: Apache-2.0
// The names of a VAE's tensors in files: all that another layout has to change (flux-facts 4.3).
#pragma once

namespace fluxlora {

/// Format strings; {} is the half ("encoder", "decoder") or a level, then the block in it. Levels
/// are counted in the order in which the data passes.
struct VaeNames {
  const char* conv_in = "{}.conv_in";
  const char* down_block = "encoder.down_blocks.{}.resnets.{}";
  const char* downsample = "encoder.down_blocks.{}.downsamplers.0.conv";
  const char* up_block = "decoder.up_blocks.{}.resnets.{}";
  const char* upsample = "decoder.up_blocks.{}.upsamplers.0.conv";
  const char* mid_block = "{}.mid_block.resnets.{}";
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

}  // namespace fluxlora
