// SPDX-License-Identifier: Apache-2.0
// How far the adapters move what the model does with a prompt.
#pragma once

#include <vector>

#include "eval/predictor.h"
#include "model/pipeline.h"

namespace fluxlora::eval {

struct DriftOptions {
  LatentSize size;
  uint64_t seed = 0;   ///< of the starting noise
  int64_t points = 4;  ///< Euler steps, and so points, on each path
  double guidance = 1;
};

/// Points (x, t) on the base model's own paths from noise to pictures of some prompts, with the
/// base's velocities there, which are computed once.
class Drift {
 public:
  /// Runs the base over all prompts. Prompts and predictor outlive it.
  Drift(Predictor& predictor, const SchedulerConfig& scheduler,
        const std::vector<const PromptStates*>& prompts, const DriftOptions& options);

  /// sqrt(Σ|v - v_base|² / Σ|v_base|²) over the points of each prompt, v of the model with its
  /// adapters as they are now. 0 is the base, bit for bit. Sums are f64 in a fixed order.
  std::vector<double> by_prompt();
  /// The same over all prompts; 0 without any.
  double overall();

 private:
  struct Point {
    HostTensor x, v;  // (1, N, 4C)
    Query query;
  };
  struct Sums {
    double moved = 0, base = 0;
  };

  Sums sums(const Point& point);
  void follow(const SchedulerConfig& scheduler, const PromptStates& prompt, uint32_t index);

  Predictor& predictor_;
  DriftOptions options_;
  std::vector<Point> points_;  ///< options.points of them for each prompt
};

}  // namespace fluxlora::eval
