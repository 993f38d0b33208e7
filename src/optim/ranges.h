// SPDX-License-Identifier: Apache-2.0
// Inside this room only: what an elementwise update takes at once, and the numbers of its step.
#pragma once

#include <functional>
#include <vector>

#include "memory/arena.h"
#include "optim/optimizer.h"

namespace fluxlora::optim {

/// Elements up to the end of the last part.
int64_t size_of(const std::vector<Part>& parts);

/// Neighbouring parts of one rate, with what lies between them.
struct Range {
  int64_t first = 0, count = 0;  ///< in elements
  double rate = 1;
  Tensor scalars;  ///< (numbers): those of this step, in device memory

  Tensor of(const Tensor& flat) const { return flat.slice(0, first, count); }
};

/// The ranges of the parameters, each with `numbers` scalars of `dtype`.
class Ranges {
 public:
  Ranges(Device& device, const std::vector<Part>& parts, DType dtype, int64_t numbers);

  /// Sets the scalars of each range to numbers_of(its rate).
  void set(const std::function<std::vector<double>(double rate)>& numbers_of);

  std::vector<Range>::const_iterator begin() const { return ranges_.begin(); }
  std::vector<Range>::const_iterator end() const { return ranges_.end(); }

 private:
  Device& device_;
  std::vector<Range> ranges_;
  Arena arena_;
  Tensor scalars_;  // (ranges, numbers)
};

}  // namespace fluxlora::optim
