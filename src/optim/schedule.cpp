// SPDX-License-Identifier: Apache-2.0
#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace fluxlora::optim {
namespace {

/// From `start` to `end` along half a cosine, x from 0 to 1.
double half_cosine(double start, double end, double x) {
  return end + (start - end) * 0.5 * (1 + std::cos(std::numbers::pi * x));
}

double one_cycle(const ScheduleOptions& o, double step, double steps) {
  constexpr double kRise = 0.3, kStart = 1.0 / 25, kEnd = kStart / 1e4;
  const double top =
      std::max(0.0, (o.warmup > 0 ? static_cast<double>(o.warmup) : kRise * steps) - 1);
  if (step <= top) return half_cosine(kStart, 1, top > 0 ? step / top : 1);
  return half_cosine(1, kEnd, std::min(1.0, (step - top) / std::max(1.0, steps - 1 - top)));
}

/// Of the full rate, when the share q of the steps after the warm-up is done.
double share_of_rate(const ScheduleOptions& o, double q) {
  if (o.schedule == "linear") return 1 - q;
  if (o.schedule == "cosine") return half_cosine(1, 0, q);
  if (o.schedule == "restarts")
    return q < 1 ? half_cosine(1, 0, std::fmod(static_cast<double>(o.cycles) * q, 1.0)) : 0;
  if (o.schedule == "polynomial") return std::pow(1 - q, o.power);
  return 1;
}

}  // namespace

void check(const ScheduleOptions& o) {
  constexpr const char* kNames[] = {"constant", "linear",     "cosine",
                                    "restarts", "polynomial", "one_cycle"};
  if (std::find(std::begin(kNames), std::end(kNames), o.schedule) == std::end(kNames))
    throw bad_input("train.schedule", "\"" + o.schedule + "\" is not a schedule",
                    "use constant, linear, cosine, restarts, polynomial or one_cycle");
  if (!(o.learning_rate > 0) || !std::isfinite(o.learning_rate))
    throw bad_input("train.learning_rate", "should be above 0", "1e-4 is the usual value");
  if (o.warmup < 0)
    throw bad_input("train.warmup", "is negative", "give the number of steps, 0 for none");
}

double learning_rate(const ScheduleOptions& o, int64_t step, int64_t steps) {
  const auto at = static_cast<double>(step), warmup = static_cast<double>(o.warmup);
  if (o.schedule == "one_cycle")
    return o.learning_rate * one_cycle(o, at, static_cast<double>(steps));
  if (step < o.warmup) return o.learning_rate * (at + 1) / warmup;
  const double length = std::max(1.0, static_cast<double>(steps) - warmup);
  return o.learning_rate * share_of_rate(o, std::min(1.0, (at - warmup) / length));
}

}  // namespace fluxlora::optim
