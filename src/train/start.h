// SPDX-License-Identifier: Apache-2.0
// Starts of adapters that are not zero. What they add at the start is subtracted again
// (lora::AdapterSet::subtract_start), so that training begins at the base model.
#pragma once

#include "export/lora_file.h"
#include "model/flux/transformer.h"
#include "train/encode.h"
#include "train/options.h"

namespace fluxlora::train {

/// Whether lora.init is one of these.
bool starts_off_zero(const lora::Options& options);

/// PiSSA (Meng et al. 2024): s B A is the best approximation of rank R to the rows of W, the roots
/// of the singular values in both. By subspace iteration through the model's own products, so that
/// any format of weights will do.
exporting::LoraFile principal_start(flux::Transformer& model,
                                    const std::vector<lora::AdapterSpec>& specs, uint64_t seed);

/// What the gradients are taken of, and what blocks keep for the backward (Stepper).
struct Pictures {
  const std::vector<Example>& examples;
  const Encoded& encoded;
  std::vector<flux::Keep> keep = {};
};

/// LoRA-GA (Wang, Yu, Li 2024). With G = U S Vᵀ the gradient of W over the first micro-batches of
/// the run: A is the first R rows of Vᵀ, B the columns R .. 2R of U, both times rows^(1/4) /
/// sqrt(gamma) ("stable"), or divided by s ("gd"). G never exists: an adapter of rank K = 2R with A
/// = Ω, B = 0 has dB = G Ωᵀ; one with A = 0, B = Q, the orthonormal columns of that, has dA = Qᵀ G,
/// and the same picture, time and noise are replayed for both. No adapters are attached to the
/// model during the call.
exporting::LoraFile gradient_start(flux::Transformer& model,
                                   const std::vector<lora::AdapterSpec>& specs,
                                   const Pictures& pictures, const RunOptions& options);

}  // namespace fluxlora::train
