// SPDX-License-Identifier: Apache-2.0
// When to stop: a pure function of the validation losses so far.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace fluxlora::eval {

/// The validation loss after `step` steps.
struct LossPoint {
  int64_t step = 0;
  double loss = 0;
};

struct StopOptions {
  int64_t patience = 6;    ///< validations that must bring something, 1 or more
  double min_gain = 0.01;  ///< what they must bring, as a share of all that was gained
};

struct StopAdvice {
  bool stop = false;
  size_t best = 0;     ///< index of the lowest loss, the first of equals
  std::string reason;  ///< a sentence; empty unless `stop`
};

/// Whether more steps are worth their time. `history` begins with the untrained model. With
/// G = L_first - L_best it says stop when both hold:
///   1. the last `patience` validations lowered the best loss by less than min_gain G;
///   2. the line through the last patience + 1 losses (least squares) promises less than that for
///      the next `patience`.
/// A loss that is not finite counts as infinite. Never with fewer than patience + 1 points.
StopAdvice early_stop(std::span<const LossPoint> history, const StopOptions& options);

}  // namespace fluxlora::eval
