// SPDX-License-Identifier: Apache-2.0
// What the measures of a checkpoint mean, in words.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "eval/early_stop.h"

namespace fluxlora::eval {

/// All that is measured of the model after `step` steps (docs/eval.md).
struct Measures {
  int64_t step = 0;
  double loss = 0;          ///< of the held-out pictures
  double gain = 0;          ///< 1 - loss / the base's: how much of it was learnt
  double trained_gain = 0;  ///< the same of pictures that were trained
  double falling = 0;       ///< share of the gain that the last fifth of the steps brought
  double trigger_drift = 0, near_drift = 0, neutral_drift = 0;  ///< Drift::overall by class
  double likeness = 0;  ///< correlation of samples with their nearest training picture
  /// Mean cosine of samples and training pictures in the eyes of a model that the user brought.
  std::optional<double> similarity = {};
  double following = 0;   ///< how far prompts move the samples, as a share of the base's
  double spill = 0;       ///< PictureChange of neutral prompts, mean
  double distortion = 0;  ///< the same

  /// Share of what was learnt on trained pictures that is of no use on others.
  double gap() const { return trained_gain > 0 ? (trained_gain - gain) / trained_gain : 0; }
  /// Movement without the trigger as a share of that with it.
  double bleed() const { return trigger_drift > 0 ? neutral_drift / trigger_drift : 0; }
  double near_bleed() const { return trigger_drift > 0 ? near_drift / trigger_drift : 0; }
};

/// Share of what the losses up to `step` gained that the last fifth of these steps brought, between
/// points by straight lines; 0 without a gain. `history` begins with the untrained model.
double falling_share(std::span<const LossPoint> history, int64_t step);

/// What separates the verdicts, set on the tuning runs of bench/verdict.py (docs/eval.md).
struct Thresholds {
  double least_gain = 0.07;  ///< less is nothing, and as much lost is harm
  double most_falling = 0.2;
  double most_gap = 0.8;
  double most_distortion = 0.06;
};

struct Verdict {
  std::string name;                 ///< "good", "underfit", "overfit", "bleeds"
  std::string sentence;             ///< with the numbers that decided
  std::vector<std::string> advice;  ///< each names a key to change; empty when good
};

Verdict judge(const Measures& measures, const Thresholds& thresholds = {});

/// Which of two checkpoints is to be preferred: the verdict first, then the gain less what bleeds.
bool better(const Measures& a, const Measures& b, const Thresholds& thresholds = {});

}  // namespace fluxlora::eval
