// SPDX-License-Identifier: Apache-2.0
// Inside this room only: what an optimizer keeps in device memory.
#pragma once

#include <span>
#include <vector>

#include "memory/arena.h"
#include "optim/optimizer.h"

namespace fluxlora::optim {

/// A state tensor to be.
struct Piece {
  std::string name;
  DType dtype;
  int64_t size;  ///< elements
};

/// The pieces, flat, zero at first.
class StateMemory {
 public:
  StateMemory(Device& device, const std::vector<Piece>& pieces);

  /// Piece i, (size).
  const Tensor& operator[](size_t i) const { return tensors_[i].view; }
  const std::vector<StateTensor>& tensors() const { return tensors_; }

  /// A piece of f64 numbers that the host computes with from step to step.
  std::vector<double> numbers(size_t i) const;
  void set_numbers(size_t i, const std::vector<double>& numbers);

 private:
  Device& device_;
  Arena arena_;
  std::vector<StateTensor> tensors_;
};

}  // namespace fluxlora::optim
