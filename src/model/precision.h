// SPDX-License-Identifier: Apache-2.0
// The one place that decides in which types of numbers a device computes.
#pragma once

#include <string>

#include "ops/device.h"

namespace fluxlora {

/// How a network is run.
struct Precision {
  DType act = DType::f32;  ///< of activations
  WeightFormat format = WeightFormat::f32;
};

/// What `model.text_precision` means for T5's encoder: the same words. Auto is settled before
/// (eval/prompt.h); as it stands it is f32 on a CPU, bf16 on a GPU.
Precision text_precision(const std::string& word, bool on_host);

/// What `model.precision` (auto, f32, bf16, fp8, int8, nf4) means. A CPU computes in f32, whatever
/// the weights are kept in; a GPU in bf16, unless f32 is asked for. Auto is f32 on a CPU, bf16 on a
/// GPU. Throws Error (bad_input) for another word.
Precision transformer_precision(const std::string& word, bool on_host);

/// "f32", "bf16", "fp8" ...
const char* word_for(WeightFormat format);

/// Activations of the text encoders, and all of the VAE: f32 on a CPU, bf16 on a GPU.
DType encoder_dtype(const Device& device);

}  // namespace fluxlora
