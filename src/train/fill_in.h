// SPDX-License-Identifier: Apache-2.0
// What a configuration leaves to the model.
#pragma once

#include "model/pipeline.h"
#include "train/options.h"

namespace fluxlora::train {

/// Replaces every value that means "the model's own" (text tokens, resolution, size of samples) and
/// an empty list of sample prompts, and checks what only the model can judge. Doing it twice
/// changes nothing. Throws Error (bad_input).
void fill_in(RunOptions& options, const ModelFiles& model);

/// T5 tokens that this model takes unless told otherwise: 512, or 256 for schnell.
int64_t default_text_tokens(const ModelFiles& model);

/// `prompt` with the trigger word in the place of each "[trigger]".
std::string sample_prompt(const std::string& prompt, const std::string& trigger);

}  // namespace fluxlora::train
