// SPDX-License-Identifier: Apache-2.0
// One step of training: picks -> latents, noise, times -> forward -> loss -> backward, accumulated
// over micro-batches; then the norm of the gradients and the update. All memory is taken in the
// constructor.
#pragma once

#include <future>
#include <memory>
#include <optional>
#include <vector>

#include "data/loader.h"
#include "model/flux/transformer.h"
#include "train/encode.h"
#include "train/state.h"

namespace fluxlora::train {

struct StepResult {
  double loss = 0;                  ///< mean over micro-batches of the weighted mean over pictures
  double grad_norm = 0;             ///< before clipping
  double param_norm = 0;            ///< of all parameters, before the update
  std::optional<double> preserved;  ///< loss of train.preservation, without its weight
  std::optional<double> noise_scale;  ///< pictures a step at which noise and gradient are equal
  double learning_rate = 0;           ///< that the optimizer made of the schedule's
  std::vector<double> timesteps;      ///< flow time of every picture
};

class Stepper {
 public:
  /// `examples` and `encoded` must outlive it; adapters are attached to the model. `keep` says what
  /// each block keeps for the backward (WorkspaceOptions). A `clip` that carries adapters, prepared
  /// for training on batches of train.batch_size, makes the prompts' vectors anew in every pass and
  /// is trained with the transformer; null: they are as encoded.
  Stepper(flux::Transformer& model, const std::vector<Example>& examples, const Encoded& encoded,
          const RunOptions& options, const std::vector<flux::Keep>& keep = {},
          ClipText* clip = nullptr);
  ~Stepper();

  /// Step `state.step` (from 0): gradients, then the update, and state.step counts on. Throws
  /// not_finite() (checkpoint.h) before the update when loss or gradients are not finite.
  StepResult run(State& state);

  /// The gradients of the given micro-batches as those of step `step`, without an update; loss,
  /// norm and times of the result are set.
  StepResult accumulate(lora::AdapterSet& adapters, int64_t step,
                        const std::vector<std::vector<Pick>>& micro_batches);
  /// Of the step's own micro-batches.
  StepResult gradients(lora::AdapterSet& adapters, int64_t step);

  /// The shapes that its batches will have.
  static std::vector<BatchShape> shapes(const std::vector<Example>& examples,
                                        const RunOptions& options);

  /// Bytes of all workspaces.
  int64_t bytes() const;

 private:
  struct Batch;
  struct Drawn;
  using Picks = std::vector<Pick>;  // of a micro-batch

  Batch& batch_for(const Picks& picks);
  const Latents& latents_of(const Pick& pick) const;
  void draw(Drawn& drawn, const Picks& picks, int64_t step, int64_t micro_step) const;
  void draw_place(Drawn& drawn, int64_t b, int64_t step, int64_t place) const;
  const std::vector<Drawn>& drawn_for(int64_t step, const std::vector<Picks>& micro_batches);
  void draw_ahead(int64_t step);
  void fill(Batch& batch, const Drawn& drawn);
  void set_prompt(Batch& batch, int64_t b, const eval::PromptStates& prompt);
  void forward(Batch& batch);
  void backward(Batch& batch);
  void preserve(Batch& batch, const Picks& picks, lora::AdapterSet& adapters, const Tensor& losses);
  void warm_up();

  flux::Transformer& model_;
  ClipText* clip_;
  const std::vector<Example>& examples_;
  const Encoded& encoded_;
  RunOptions options_;
  Loader loader_;
  bool masked_;                                  // some picture has a mask
  std::vector<std::unique_ptr<Batch>> batches_;  // by shape
  std::vector<Drawn> drawn_, next_;              // by micro-batch: of this step, of the next one
  std::vector<int32_t> clip_ids_;                // of the batch's prompts
  Buffer d_pooled_memory_;
  Tensor d_pooled_;  // (batch, vec_in): 0 beyond the batch's own size; empty without clip_
  Buffer results_memory_;
  Tensor losses_, preserved_;   // (accumulation, batch)
  Tensor norm_, param_norm_;    // (1)
  Tensor results_;              // all of them, flat
  std::future<int64_t> ahead_;  // fills next_ while the device works, and gives its step
};

}  // namespace fluxlora::train
