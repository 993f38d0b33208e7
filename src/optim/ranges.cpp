// SPDX-License-Identifier: Apache-2.0
#include "optim/ranges.h"

namespace fluxlora::optim {
namespace {

int64_t end_of(const Part& part) {
  return part.offset + part.rows * part.columns;
}

/// What lies between two parts goes with the first: its gradients are 0.
std::vector<Range> joined(const std::vector<Part>& parts) {
  std::vector<Range> ranges;
  for (const Part& part : parts) {
    if (ranges.empty() || ranges.back().rate != part.rate)
      ranges.push_back({part.offset, 0, part.rate, {}});
    ranges.back().count = end_of(part) - ranges.back().first;
  }
  return ranges;
}

}  // namespace

int64_t size_of(const std::vector<Part>& parts) {
  return parts.empty() ? 0 : end_of(parts.back());
}

Ranges::Ranges(Device& device, const std::vector<Part>& parts, DType dtype, int64_t numbers)
    : device_(device), ranges_(joined(parts)) {
  const auto rows = static_cast<int64_t>(ranges_.size());
  Arena measure;
  measure.take("optimizer", dtype, {rows, numbers});
  arena_ = Arena(device, measure.used());
  scalars_ = arena_.take("optimizer", dtype, {rows, numbers});
  for (int64_t i = 0; i < rows; ++i) ranges_[static_cast<size_t>(i)].scalars = scalars_.item(i);
}

void Ranges::set(const std::function<std::vector<double>(double rate)>& numbers_of) {
  std::vector<double> values;
  for (const Range& range : ranges_) {
    const std::vector<double> numbers = numbers_of(range.rate);
    values.insert(values.end(), numbers.begin(), numbers.end());
  }
  HostTensor host(scalars_.dtype(), {scalars_.size()});
  convert(scalars_.dtype(), host.view.data(), DType::f64, values.data(), host.view.size());
  device_.upload(scalars_, host.view.data());
}

}  // namespace fluxlora::optim
