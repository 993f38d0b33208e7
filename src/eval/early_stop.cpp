// SPDX-License-Identifier: Apache-2.0
#include "eval/early_stop.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

namespace fluxlora::eval {
namespace {

double loss_of(const LossPoint& point) {
  return std::isfinite(point.loss) ? point.loss : std::numeric_limits<double>::infinity();
}

bool lower(const LossPoint& a, const LossPoint& b) {
  return loss_of(a) < loss_of(b);
}

size_t lowest(std::span<const LossPoint> points) {
  return static_cast<size_t>(std::min_element(points.begin(), points.end(), lower) -
                             points.begin());
}

/// Of the least-squares line through the losses, by point.
double slope(std::span<const LossPoint> points) {
  const double middle = static_cast<double>(points.size() - 1) / 2;
  double covariance = 0, variance = 0;
  for (size_t i = 0; i < points.size(); ++i) {
    const double x = static_cast<double>(i) - middle;
    covariance += x * loss_of(points[i]);
    variance += x * x;
  }
  return covariance / variance;
}

std::string sentence(std::span<const LossPoint> history, size_t best, bool rises) {
  const LossPoint& first = history.front();
  const LossPoint& lowest = history[best];
  if (best == 0)
    return fmt::format(
        "no validation was better than the untrained model's loss of {:.4f}: the rate may be far "
        "too high or too low, or the captions may not fit the pictures",
        first.loss);
  const double gained = 100 * (first.loss - lowest.loss) / first.loss;
  const std::string so_far = fmt::format("{:.4f} after step {} ({:.0f} % below the base)",
                                         lowest.loss, lowest.step, gained);
  if (rises)
    return "the validation loss rises since its best, " + so_far +
           ": more steps would only memorise the pictures";
  return "the validation loss hardly falls any more; its best was " + so_far;
}

}  // namespace

StopAdvice early_stop(std::span<const LossPoint> history, const StopOptions& options) {
  StopAdvice advice;
  if (history.empty()) return advice;
  advice.best = lowest(history);
  const auto patience = static_cast<size_t>(options.patience);
  if (history.size() < patience + 1) return advice;

  const auto before = history.first(history.size() - patience), recent = history.last(patience);
  const double earlier_best = loss_of(before[lowest(before)]);
  const double recent_best = loss_of(recent[lowest(recent)]);
  const double gained = loss_of(history.front()) - loss_of(history[advice.best]);
  const double wanted = options.min_gain * gained;
  // Written so that infinite losses, whose differences are not numbers, give a stop.
  if (earlier_best - recent_best > wanted) return advice;
  const double trend = slope(history.last(patience + 1));
  const double promised = -trend * static_cast<double>(patience);
  if (promised > wanted) return advice;
  advice.stop = true;
  const bool rises = recent_best > earlier_best && !(promised > 0);
  advice.reason = sentence(history, advice.best, rises);
  return advice;
}

}  // namespace fluxlora::eval
