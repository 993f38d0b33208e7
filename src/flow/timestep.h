// SPDX-License-Identifier: Apache-2.0
// Which flow times are trained (flux-facts 6.2).
#pragma once

#include <cstdint>
#include <string>

#include "base/philox.h"

namespace fluxlora::flow {

struct TimestepOptions {
  /// "uniform": t = u. "sigmoid": t = σ(scale n). "logit_normal": t = σ(mean + std n). "shift":
  /// sigmoid, then shifted by `shift`. "flux_shift": sigmoid, then shifted by e^μ of the picture's
  /// token count.
  std::string sampling = "sigmoid";
  double sigmoid_scale = 1.0;
  double logit_mean = 0.0, logit_std = 1.0;
  double shift = 3.1582;
};

/// Throws Error (bad_input) for an unknown name or a value that makes no sense.
void check(const TimestepOptions& options);

/// One flow time in (0, 1) for a picture of `tokens` image tokens.
double draw_timestep(const TimestepOptions& options, Philox& random, int64_t tokens);

/// F t / (1 + (F - 1) t).
double shift_time(double t, double factor);

/// e^μ, μ linear in the number of image tokens: 0.5 at 256, 1.15 at 4096.
double resolution_shift(int64_t tokens, double base_shift = 0.5, double max_shift = 1.15,
                        int64_t base_tokens = 256, int64_t max_tokens = 4096);

}  // namespace fluxlora::flow
