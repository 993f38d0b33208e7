// SPDX-License-Identifier: Apache-2.0
#include "flow/timestep.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace fluxlora::flow {
namespace {

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

// The ends are left out: at t = 0 there is nothing to learn, and at t = 1 logit draws would
// saturate.
constexpr double kEnd = 1e-5;

}  // namespace

void check(const TimestepOptions& o) {
  const auto fail = [](const std::string& key, const std::string& what) {
    throw bad_input("train." + key, what, "see docs/config.md, table [train]");
  };
  if (o.sampling != "uniform" && o.sampling != "sigmoid" && o.sampling != "logit_normal" &&
      o.sampling != "shift" && o.sampling != "flux_shift")
    throw bad_input("train.timestep_sampling", "\"" + o.sampling + "\" is not a way to draw times",
                    "use uniform, sigmoid, logit_normal, shift or flux_shift");
  if (!(o.sigmoid_scale > 0)) fail("sigmoid_scale", "should be above 0");
  if (!(o.logit_std > 0)) fail("logit_std", "should be above 0");
  if (!std::isfinite(o.logit_mean)) fail("logit_mean", "should be a number");
  if (!(o.shift > 0)) fail("timestep_shift", "should be above 0");
}

double shift_time(double t, double factor) {
  return factor * t / (1 + (factor - 1) * t);
}

double resolution_shift(int64_t tokens, double base_shift, double max_shift, int64_t base_tokens,
                        int64_t max_tokens) {
  const double slope = (max_shift - base_shift) / static_cast<double>(max_tokens - base_tokens);
  return std::exp(base_shift + slope * static_cast<double>(tokens - base_tokens));
}

double draw_timestep(const TimestepOptions& o, Philox& random, int64_t tokens) {
  double t = 0;
  if (o.sampling == "uniform") {
    t = random.uniform();
  } else if (o.sampling == "logit_normal") {
    t = sigmoid(o.logit_mean + o.logit_std * random.normal());
  } else {
    t = sigmoid(o.sigmoid_scale * random.normal());
    if (o.sampling == "shift") t = shift_time(t, o.shift);
    if (o.sampling == "flux_shift") t = shift_time(t, resolution_shift(tokens));
  }
  return std::clamp(t, kEnd, 1 - kEnd);
}

}  // namespace fluxlora::flow
