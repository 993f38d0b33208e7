// SPDX-License-Identifier: Apache-2.0
// What changes while a run trains, and therefore what a checkpoint must hold.
#pragma once

#include <cstdint>

#include "lora/adapter.h"
#include "optim/optimizer.h"

namespace fluxlora::train {

/// Order, noise, flow times and dropout are functions of seed and step (base/philox.h), so that the
/// step number is all that must be kept of them.
struct State {
  Device& device;
  const flux::Config& config;
  lora::AdapterSet& adapters;
  optim::Optimizer& optimizer;
  int64_t step = 0;  ///< steps done
};

}  // namespace fluxlora::train
