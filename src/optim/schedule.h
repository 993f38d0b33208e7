// SPDX-License-Identifier: Apache-2.0
// The learning rate of a step.
#pragma once

#include <cstdint>
#include <string>

namespace fluxlora::optim {

struct ScheduleOptions {
  double learning_rate = 1e-4;
  std::string schedule = "constant";  ///< "constant" or "cosine"
  int64_t warmup = 0;                 ///< steps of linear rise
};

/// Throws Error (bad_input) for an unknown name or a negative number.
void check(const ScheduleOptions& options);

/// The rate of step `step` (from 0) of `steps`: step + 1 over warmup of the full rate while it
/// rises, then constant, or a half cosine down to 0.
double learning_rate(const ScheduleOptions& options, int64_t step, int64_t steps);

}  // namespace fluxlora::optim
