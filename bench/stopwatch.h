// SPDX-License-Identifier: Apache-2.0
// Times of single operations without waiting for each: marks between them, read at the end.
#pragma once

#include <memory>
#include <vector>

#include "ops/device.h"

namespace fluxlora::bench {

class Stopwatch {
 public:
  virtual ~Stopwatch() = default;
  /// Notes the moment when the device is done with what it was given so far.
  virtual void mark() = 0;
  /// Seconds between neighbouring marks, which are forgotten. Waits for the device.
  virtual std::vector<double> take() = 0;
};

/// By the GPU's events, or by the host's clock. bench/stopwatch_host.cpp, bench/stopwatch_cuda.cpp.
std::unique_ptr<Stopwatch> make_stopwatch(Device& device);
std::unique_ptr<Stopwatch> make_host_stopwatch();

/// Operations need not give the same bytes each time from here on. Nothing on the host.
void let_add_in_any_order(Device& device);

}  // namespace fluxlora::bench
