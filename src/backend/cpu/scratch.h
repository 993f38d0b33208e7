// SPDX-License-Identifier: Apache-2.0
// Work memory of the CPU backend: grown on first use, then kept, so that a step allocates nothing.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "base/parallel.h"
#include "tensor/buffer.h"

namespace fluxlora {

class Scratch {
 public:
  /// To be called before parallel work that uses thread().
  void prepare() {
    const auto threads = static_cast<size_t>(thread_count());
    if (threads_.size() < threads) threads_.resize(threads);
  }

  /// Memory of the calling thread. What a slot held before is lost.
  template <typename T>
  T* thread(size_t slot, int64_t count) {
    return grow<T>(threads_[static_cast<size_t>(thread_index())][slot], count);
  }

  /// Memory that all threads share; to be asked for outside of parallel work.
  template <typename T>
  T* shared(size_t slot, int64_t count) {
    return grow<T>(shared_[slot], count);
  }

 private:
  static constexpr size_t kSlots = 8;
  using Slots = std::array<Buffer, kSlots>;

  template <typename T>
  static T* grow(Buffer& buffer, int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (buffer.bytes() < bytes || !buffer) {
      buffer = Buffer();
      buffer = host_buffer(bytes);
    }
    return static_cast<T*>(buffer.data());
  }

  std::vector<Slots> threads_;
  Slots shared_;
};

}  // namespace fluxlora
