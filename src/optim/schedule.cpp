// SPDX-License-Identifier: Apache-2.0
#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace fluxlora::optim {

void check(const ScheduleOptions& o) {
  if (o.schedule != "constant" && o.schedule != "cosine")
    throw bad_input("train.schedule", "\"" + o.schedule + "\" is not a schedule",
                    "use constant or cosine");
  if (!(o.learning_rate > 0) || !std::isfinite(o.learning_rate))
    throw bad_input("train.learning_rate", "should be above 0", "1e-4 is the usual value");
  if (o.warmup < 0)
    throw bad_input("train.warmup", "is negative", "give the number of steps, 0 for none");
}

double learning_rate(const ScheduleOptions& o, int64_t step, int64_t steps) {
  const auto at = static_cast<double>(step);
  if (step < o.warmup) return o.learning_rate * (at + 1) / static_cast<double>(o.warmup);
  if (o.schedule == "constant") return o.learning_rate;
  const auto length = static_cast<double>(std::max<int64_t>(steps - o.warmup, 1));
  const double progress = std::min(1.0, (at - static_cast<double>(o.warmup)) / length);
  return o.learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

}  // namespace fluxlora::optim
