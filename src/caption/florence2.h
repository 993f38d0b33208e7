// SPDX-License-Identifier: Apache-2.0
// Florence-2 (Xiao et al., CVPR 2024): sentences about a picture.
#pragma once

#include <filesystem>
#include <memory>

#include "caption/captioner.h"

namespace fluxlora::caption {

/// Opens Florence-2 as its published ONNX exports cut it, all in one folder or the ONNX files in
/// onnx/ below it:
///   vision_encoder.onnx  pixel_values (1, 3, S, S) -> image_features (1, P, D)
///   embed_tokens.onnx    input_ids (N, T) -> inputs_embeds (N, T, D)
///   encoder_model.onnx   attention_mask (1, P + T), inputs_embeds (1, P + T, D)
///                        -> last_hidden_state (1, P + T, D)
///   decoder_model.onnx   encoder_attention_mask, encoder_hidden_states, inputs_embeds (N, T, D)
///                        -> logits (N, T, vocabulary)
/// with preprocessor_config.json, generation_config.json and the files of BART's tokenizer. The
/// tokens of each caption go to the log, level debug. Errors of open_captioner().
std::unique_ptr<Captioner> open_florence2(const std::filesystem::path& folder,
                                          const FlorenceOptions& options);

}  // namespace fluxlora::caption
