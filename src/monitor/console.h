// SPDX-License-Identifier: Apache-2.0
// The console: how far a run is, for the person in front of it.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "monitor/sink.h"

namespace fluxlora::monitor {

/// A progress line on a terminal (base/log.h, show_progress): step, smoothed loss, seconds per
/// step, time left, learning rate. Elsewhere a plain line every ten seconds at most. Notes,
/// validations and the reason of the end are lines of their own, in log.txt too.
std::unique_ptr<Sink> make_console();

/// "1:05", "2:03:04", "3 days 4:05:06"; whole seconds.
std::string format_duration(double seconds);

/// Running means for people: of the loss (each value counts 1/40, the first ones alike) and of the
/// seconds per step (1/20, without the first step, which warms up). Values that are not finite are
/// left out of the mean.
class Smoothed {
 public:
  explicit Smoothed(double weight) : weight_(weight) {}
  void add(double value);
  /// Nothing before the first finite value.
  std::optional<double> mean() const;

 private:
  double weight_, sum_ = 0, total_ = 0;
};

}  // namespace fluxlora::monitor
