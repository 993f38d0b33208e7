// SPDX-License-Identifier: Apache-2.0
// What the held-out pictures say of a run: their losses so far, the best step, when to stop.
#pragma once

#include <optional>
#include <vector>

#include "eval/drift.h"
#include "eval/validation.h"
#include "monitor/sink.h"
#include "train/encode.h"

namespace fluxlora::train {

/// Moves the held-out pictures of a dataset to its end and returns how many examples are trained.
/// All of them when nothing is held out.
int64_t hold_out(Dataset& dataset, const RunOptions& options);

class Validator {
 public:
  /// Examples from `trained` on validate, at least one; `encoded` follows the dataset's order and
  /// outlives this. Runs the base over the neutral prompts.
  Validator(flux::Transformer& model, lora::AdapterSet& adapters, const SchedulerConfig& scheduler,
            const Encoded& encoded, int64_t trained, const RunOptions& options);

  /// What was measured before a resume.
  void remember(std::vector<eval::LossPoint> history) { history_ = std::move(history); }

  /// Whether the state after `step` steps is to be measured: at 0, every validate.every, at the
  /// end, and not twice.
  bool due(int64_t step) const;
  /// Measures the adapters as they are; the drift every second time.
  monitor::ValidationEvent measure(int64_t step);

  /// The step with the lowest loss; 0 while nothing beats the untrained model.
  int64_t best_step() const;
  double best_loss() const;
  /// validate.stop and the history so far.
  eval::StopAdvice advice() const;
  double seconds() const { return seconds_; }  ///< spent in measure()

 private:
  ValidateOptions options_;
  int64_t steps_;
  eval::Predictor predictor_;
  eval::Validation validation_;
  eval::Drift drift_;
  std::vector<eval::LossPoint> history_;
  double seconds_ = 0;
};

}  // namespace fluxlora::train
