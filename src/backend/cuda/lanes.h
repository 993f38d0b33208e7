// SPDX-License-Identifier: Apache-2.0
// Copies beside the operations: a stream of their own, with an event for each lane.
#pragma once

#include <array>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backend/cuda/context.h"
#include "ops/device.h"

namespace fluxlora::cuda {

/// Device::copy_aside and join of one GPU. Orders the two streams by events alone, so that a graph
/// which is captured on the context's stream takes the copies along.
class Lanes {
 public:
  explicit Lanes(Context& context);
  ~Lanes();
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;

  void copy(int lane, void* device, const void* pinned, int64_t bytes);
  void join(int lane);

 private:
  Context& context_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t given_ = nullptr;  // after the operations given before a copy
  std::array<cudaEvent_t, Device::kLanes> arrived_{};
};

}  // namespace fluxlora::cuda
