// SPDX-License-Identifier: Apache-2.0
#include "flow/timestep.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace fluxlora::flow {
namespace {

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

// The ends are left out: at t = 0 there is nothing to learn, and at t = 1 logit draws would
// saturate.
constexpr double kEnd = 1e-5;

/// One number in (0, 1), as each name says.
using Drawer = double (*)(const TimestepOptions& o, Philox& random, int64_t tokens);

double uniform(const TimestepOptions&, Philox& random, int64_t) {
  return random.uniform();
}

double logit_normal(const TimestepOptions& o, Philox& random, int64_t) {
  return sigmoid(o.logit_mean + o.logit_std * random.normal());
}

double scaled_sigmoid(const TimestepOptions& o, Philox& random, int64_t) {
  return sigmoid(o.sigmoid_scale * random.normal());
}

/// Three quarters lean to much noise: 1 - L / largest, L log-normal with log-deviation 0.333;
/// largest is the median of the largest of the 750 that ai-toolkit draws.
double lognorm_blend(const TimestepOptions&, Philox& random, int64_t) {
  const double kind = random.uniform();
  if (kind < 0.25) return random.uniform();
  constexpr double kSpread = 0.333, kLargest = 3.114;
  return 1 - std::exp(kSpread * (random.normal() - kLargest));
}

double mode(const TimestepOptions& o, Philox& random, int64_t) {
  const double u = random.uniform(), c = std::cos(std::numbers::pi * u / 2);
  return u + o.mode_scale * (c * c - 1 + u);
}

struct Named {
  const char* name;
  Drawer draw;
};

constexpr Named kNamed[] = {
    {"uniform", uniform},
    {"linear", uniform},
    {"sigmoid", scaled_sigmoid},
    {"logit_normal", logit_normal},
    {"mode", mode},
    {"lognorm_blend", lognorm_blend},
    {"sigma", [](const TimestepOptions& o, Philox& random,
                 int64_t tokens) { return shift_time(uniform(o, random, tokens), o.shift); }},
    {"shift",
     [](const TimestepOptions& o, Philox& random, int64_t tokens) {
       return shift_time(scaled_sigmoid(o, random, tokens), o.shift);
     }},
    {"flux_shift",
     [](const TimestepOptions& o, Philox& random, int64_t tokens) {
       return shift_time(scaled_sigmoid(o, random, tokens), resolution_shift(tokens));
     }},
    {"linear_flux_shift",
     [](const TimestepOptions& o, Philox& random, int64_t tokens) {
       return shift_time(uniform(o, random, tokens), resolution_shift(tokens));
     }},
    {"content", [](const TimestepOptions&, Philox& random,
                   int64_t) { return 1 - std::pow(random.uniform(), 3); }},
    {"style",
     [](const TimestepOptions&, Philox& random, int64_t) { return std::pow(random.uniform(), 3); }},
};

const Named* find(const std::string& name) {
  for (const Named& named : kNamed)
    if (name == named.name) return &named;
  return nullptr;
}

}  // namespace

void check(const TimestepOptions& o) {
  const auto fail = [](const std::string& key, const std::string& what) {
    throw bad_input("train." + key, what, "see docs/config.md, table [train]");
  };
  if (!find(o.sampling))
    throw bad_input("train.timestep_sampling", "\"" + o.sampling + "\" is not a way to draw times",
                    "see docs/training.md for the names");
  if (o.weighting != "none" && o.weighting != "sigma_sqrt" && o.weighting != "cosmap" &&
      o.weighting != "bell")
    throw bad_input("train.weighting", "\"" + o.weighting + "\" is not a weighting",
                    "use none, sigma_sqrt, cosmap or bell");
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
  const Named* const named = find(o.sampling);
  CHECK(named, "draw_timestep: " + o.sampling);
  return std::clamp(named->draw(o, random, tokens), kEnd, 1 - kEnd);
}

double time_weight(const TimestepOptions& o, double t) {
  // sigma_sqrt grows without bound where there is no noise; the largest weight is that of
  // diffusers' last time, 1/1000.
  if (o.weighting == "sigma_sqrt") return 1 / std::pow(std::max(t, 1e-3), 2);
  if (o.weighting == "cosmap") return 2 / (std::numbers::pi * (1 - 2 * t + 2 * t * t));
  if (o.weighting != "bell") return 1;
  // e^(-2 (t - 1/2)²), down to 0 at both ends, over its mean.
  const double lowest = std::exp(-0.5);
  const double mean = std::sqrt(std::numbers::pi / 2) * std::erf(std::numbers::sqrt2 / 2) - lowest;
  return (std::exp(-2 * (t - 0.5) * (t - 0.5)) - lowest) / mean;
}

}  // namespace fluxlora::flow
