// SPDX-License-Identifier: Apache-2.0
// Which flow times are trained (flux-facts 6.2).
#pragma once

#include <cstdint>
#include <string>

#include "base/philox.h"

namespace fluxlora::flow {

/// Formulas, and whose names these are: docs/training.md.
struct TimestepOptions {
  std::string sampling = "sigmoid";
  double sigmoid_scale = 1.0;                ///< of sigmoid, shift, flux_shift
  double logit_mean = 0.0, logit_std = 1.0;  ///< of logit_normal
  double shift = 3.1582;                     ///< of shift, sigma
  double mode_scale = 1.29;                  ///< of mode
  std::string weighting = "none";            ///< of the loss: none, sigma_sqrt, cosmap, bell
};

/// Throws Error (bad_input) for an unknown name or a value that makes no sense.
void check(const TimestepOptions& options);

/// One flow time in (0, 1) for a picture of `tokens` image tokens.
double draw_timestep(const TimestepOptions& options, Philox& random, int64_t tokens);

/// What the loss at flow time t counts, by `options.weighting`.
double time_weight(const TimestepOptions& options, double t);

/// F t / (1 + (F - 1) t).
double shift_time(double t, double factor);

/// e^μ, μ linear in the number of image tokens: 0.5 at 256, 1.15 at 4096.
double resolution_shift(int64_t tokens, double base_shift = 0.5, double max_shift = 1.15,
                        int64_t base_tokens = 256, int64_t max_tokens = 4096);

}  // namespace fluxlora::flow
