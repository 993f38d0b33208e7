// SPDX-License-Identifier: Apache-2.0
#include "optim/state_memory.h"

namespace fluxlora::optim {
namespace {

std::vector<StateTensor> take(Arena& arena, const std::vector<Piece>& pieces) {
  std::vector<StateTensor> tensors;
  for (const Piece& piece : pieces)
    tensors.push_back({piece.name, arena.take("optimizer", piece.dtype, {piece.size})});
  return tensors;
}

int64_t measure(const std::vector<Piece>& pieces) {
  Arena arena;
  take(arena, pieces);
  return arena.used();
}

}  // namespace

StateMemory::StateMemory(Device& device, const std::vector<Piece>& pieces)
    : device_(device), arena_(device, measure(pieces)), tensors_(take(arena_, pieces)) {
  for (const StateTensor& tensor : tensors_) {
    const std::vector<char> zeros(static_cast<size_t>(tensor.view.bytes()));
    device.upload(tensor.view, zeros.data());
  }
}

std::vector<double> StateMemory::numbers(size_t i) const {
  std::vector<double> numbers(static_cast<size_t>(tensors_[i].view.size()));
  device_.download(numbers.data(), tensors_[i].view);
  return numbers;
}

void StateMemory::set_numbers(size_t i, const std::vector<double>& numbers) {
  device_.upload(tensors_[i].view, numbers.data());
}

}  // namespace fluxlora::optim
