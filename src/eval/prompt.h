// SPDX-License-Identifier: Apache-2.0
// From prompts to what the transformer reads of them.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "data/cache.h"
#include "model/clip/text_model.h"
#include "model/pipeline.h"
#include "ops/device.h"

namespace fluxlora::eval {

/// A prompt as both text encoders see it, in host memory, f32.
struct PromptStates {
  HostTensor txt;                      // (M, context_in) T5 token states, padding included
  HostTensor pooled;                   // (vec_in) CLIP
  std::vector<int32_t> clip_ids = {};  ///< what CLIP makes it of, padding included
};

/// By prompt.
using PromptBook = std::map<std::string, PromptStates>;

struct PromptOptions {
  int64_t text_tokens = 512;                              ///< M
  std::string precision = "auto";                         ///< of T5's weights (model/precision.h)
  Cache* cache = nullptr;                                 ///< where states are kept; may be null
  std::function<void(const std::string&)> note = {};      ///< hears of cut prompts
  std::function<void(const std::string&)> progress = {};  ///< hears of every prompt
  std::function<bool()> stop = {};  ///< asked between prompts; true ends the work early
};

/// What "auto" is for T5's weights where `budget` bytes of the device are there for the encoder (0:
/// no limit): "auto" itself where they fit in the type of activations, else "fp8", else "nf4".
/// Reads headers alone; without T5's files the sizes of T5-XXL are assumed.
std::string automatic_precision(const ModelFiles& model, int64_t text_tokens, bool on_host,
                                int64_t budget);

/// The states of all prompts, each once. The encoders are loaded one after the other, used and
/// freed; none is loaded when the cache has all. When `stop` said so the book is incomplete. Throws
/// Error (bad_input) naming what does not fit.
PromptBook encode_prompts(Device& device, const ModelFiles& model,
                          const std::vector<std::string>& prompts, const PromptOptions& options);

/// Every prompt's vector as this CLIP gives it now: for one that carries adapters. Each prompt
/// fills a whole batch of its workspace, so that its bits do not depend on the others.
void encode_pooled_again(ClipText& clip, Device& device, PromptBook& book);

}  // namespace fluxlora::eval
