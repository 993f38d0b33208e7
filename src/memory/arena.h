// SPDX-License-Identifier: Apache-2.0
// Arena: memory that is measured first, reserved once, and then only dealt out.
#pragma once

#include <map>
#include <string>

#include "ops/device.h"
#include "tensor/weight.h"

namespace fluxlora {

/// Use: describe everything to a measuring arena (its tensors point nowhere), reserve() that many
/// bytes, then describe the same again to get the real views. Each piece is 64-byte aligned and
/// entered under its owner, which `fluxlora plan` reports.
class Arena {
 public:
  /// A measuring arena.
  Arena() = default;
  /// An arena with `bytes` of the device's memory. Throws Error (environment) when it is not there.
  Arena(Device& device, int64_t bytes);
  /// An arena in memory that somebody else owns.
  Arena(void* data, int64_t bytes);

  /// A contiguous tensor under `owner`. In a measuring arena it must not be read or written.
  Tensor take(const std::string& owner, DType dtype, std::initializer_list<int64_t> shape);

  /// A weight of these sizes, with everything that its format stores.
  Weight take(const std::string& owner, WeightFormat format, int64_t out, int64_t in);

  /// Everything taken after mark() is given back by rewind(); the peak stays.
  int64_t mark() const { return used_; }
  void rewind(int64_t mark) { used_ = mark; }

  bool measuring() const { return !memory_; }
  int64_t used() const { return used_; }
  int64_t peak() const { return peak_; }
  /// Bytes by owner at the time of taking (rewound pieces included once).
  const std::map<std::string, int64_t>& owners() const { return owners_; }

 private:
  Buffer memory_;
  int64_t used_ = 0, peak_ = 0;
  std::map<std::string, int64_t> owners_;
};

}  // namespace fluxlora
