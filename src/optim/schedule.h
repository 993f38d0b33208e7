// SPDX-License-Identifier: Apache-2.0
// The learning rate of a step.
#pragma once

#include <cstdint>
#include <string>

namespace fluxlora::optim {

struct ScheduleOptions {
  double learning_rate = 1e-4;
  /// "constant", "linear", "cosine", "restarts", "polynomial" or "one_cycle".
  std::string schedule = "constant";
  int64_t warmup = 0;  ///< steps of linear rise; of one_cycle's own rise
  double power = 2;    ///< of polynomial
  int64_t cycles = 2;  ///< of restarts
};

/// Throws Error (bad_input) for an unknown name or a negative number.
void check(const ScheduleOptions& options);

/// The rate of step `step` (from 0) of `steps`. While it rises: step + 1 over warmup of the full
/// rate; then, q being the share of the rest that is done: constant 1, linear 1 - q, cosine half a
/// cosine down to 0, restarts the same `cycles` times, polynomial (1 - q)^power, as diffusers'
/// schedules. one_cycle is PyTorch's OneCycleLR: half a cosine from 1/25 up to the full rate at
/// step warmup - 1 (0: 30 % of the steps), another down to 1/250,000.
double learning_rate(const ScheduleOptions& options, int64_t step, int64_t steps);

}  // namespace fluxlora::optim
