// SPDX-License-Identifier: Apache-2.0
// Alphas of files that have no tensors for them: alpha / rank multiplied into B, and back.
#pragma once

#include "export/lora_modules.h"

namespace fluxlora::exporting {

/// The entry of the metadata that remembers alphas which were multiplied into B: JSON
/// {"dtype": "BF16", "alpha": 8} or {"dtype": ..., "modules": {NAME: ALPHA}}; the type is that of
/// the tensors that held them.
inline constexpr const char* kAlphaRecord = "fluxlora.alpha";

/// Multiplies every module's scale into its B and remembers the alphas in the metadata, unless
/// PEFT's entry of the metadata says the same. Returns the largest relative error of a B, in the
/// Frobenius norm, after the way there and back: 0 where it is exact.
double fold_alphas(LoraModules& file);

/// The inverse, where a record says what alpha was and alpha / rank is a power of two; the record
/// goes. Other modules stay as they are, with alpha = rank.
LoraModules restore_alphas(const LoraModules& file);

/// swap_halves on what the module has by rows. Throws Error (bad_input) for a LoKr.
void swap_rows(const LoraModules& file, LoraModule& module);

}  // namespace fluxlora::exporting
