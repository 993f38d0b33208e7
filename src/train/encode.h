// SPDX-License-Identifier: Apache-2.0
// Before the first step: pictures to latents and prompts to text states, through the cache. Each
// frozen network is loaded, used and freed; none is loaded for what the cache has.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "eval/prompt.h"
#include "train/options.h"

namespace fluxlora::train {

/// One picture as packed tokens in the model's scaling; host memory, f32. They are the mean of the
/// VAE's posterior, as BFL's autoencoder gives it (flux-facts 4.1): a VAE may leave channels that
/// carry nothing at their prior, and a draw would train the model on that noise.
struct Latents {
  int64_t h = 0, w = 0;  ///< of the unpacked latents
  HostTensor tokens;     // (1, N, 4C)
  HostTensor mask;       // (1, N, 4), of flow_loss; empty: all of it counts
};

/// All that training and its samples read of pictures and words.
struct Encoded {
  std::vector<Latents> latents;   ///< by example
  std::vector<Latents> mirrored;  ///< by example; without tokens where Example::flip is off
  /// By example and caption, in `book`.
  std::vector<std::vector<const eval::PromptStates*>> prompts;
  /// The same without the trigger word; empty unless train.preservation.
  std::vector<std::vector<const eval::PromptStates*>> preserved;
  const eval::PromptStates* no_prompt = nullptr;   ///< the empty caption; null without dropout
  std::vector<const eval::PromptStates*> samples;  ///< by sample prompt
  std::vector<const eval::PromptStates*> neutral;  ///< by prompt of validate.prompts
  eval::PromptBook book;
};

struct EncodeHooks {
  std::function<void(const std::string&)> note;      ///< lines that stay
  std::function<void(const std::string&)> progress;  ///< lines that pass
  std::function<bool()> stop;  ///< true ends the work early; then the result is incomplete
};

/// `sample_prompts` have the trigger word in them. Throws Error (bad_input) naming what does not
/// fit, Error (environment) when the cache cannot be written.
Encoded encode(Device& device, const ModelFiles& model, const Dataset& dataset,
               const RunOptions& options, const EncodeHooks& hooks);

}  // namespace fluxlora::train
