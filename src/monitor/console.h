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

/// "step 12/2000  loss 0.4103  0.31 s/step  10:16 left  lr 1.00e-04"; without `seconds` per step
/// those two are left out.
std::string progress_text(const StepEvent& event, double loss, std::optional<double> seconds);

/// "1:05", "2:03:04", "3 days 4:05:06"; whole seconds.
std::string format_duration(double seconds);

/// A running mean for people: each new value has the given weight, the first ones count alike.
/// Values that are not finite are left out.
class Smoothed {
 public:
  explicit Smoothed(double weight) : weight_(weight) {}
  void add(double value);
  /// Nothing before the first finite value.
  std::optional<double> mean() const;

 private:
  double weight_, sum_ = 0;
  double total_ = 0;  ///< weight of all values so far, towards 1
};

}  // namespace fluxlora::monitor
