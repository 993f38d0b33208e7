// SPDX-License-Identifier: Apache-2.0
// The velocity that the model predicts for one picture: what validation, drift and the verdict are
// made of.
#pragma once

#include <map>
#include <memory>
#include <utility>

#include "eval/prompt.h"
#include "lora/adapter.h"
#include "model/flux/transformer.h"

namespace fluxlora::eval {

/// Sizes of unpacked latents: height, width.
using LatentSize = std::pair<int64_t, int64_t>;

/// What a prediction depends on beside the picture.
struct Query {
  const PromptStates* prompt = nullptr;
  double t = 0;  ///< flow time
  double guidance = 1;
};

/// Predicts one picture at a time, through the transformer's ordinary forward: a batch of another
/// size may round otherwise, and a measure must give the same bits each time.
class Predictor {
 public:
  /// Adapters are attached before, and outlive it.
  Predictor(flux::Transformer& model, lora::AdapterSet& adapters, int64_t text_tokens);

  /// Of a packed token: 4C.
  int64_t channels() const { return model_.config().in_channels; }

  /// Takes the memory for pictures of this size.
  void prepare(LatentSize size);
  /// Gives it back until the next prediction.
  void release();

  /// velocity (1, N, 4C) of packed latents x (1, N, 4C) of a prepared size; both f32, host memory.
  void adapted(const Tensor& velocity, const Tensor& x, LatentSize size, const Query& query);
  /// The same of the model without its adapters (their factor m = 0).
  void base(const Tensor& velocity, const Tensor& x, LatentSize size, const Query& query);

 private:
  flux::Transformer& model_;
  lora::AdapterSet& adapters_;
  int64_t text_tokens_;
  std::map<LatentSize, std::unique_ptr<flux::Workspace>> workspaces_;
};

}  // namespace fluxlora::eval
