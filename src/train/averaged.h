// SPDX-License-Identifier: Apache-2.0
// The weights that are shown, judged and handed out, where these are not the trained ones.
#pragma once

#include "train/state.h"

namespace fluxlora::train {

/// While it lives, the adapters hold the mean that the optimizer keeps of them (train.ema,
/// schedule_free); then the trained parameters are back, bit for bit. Nothing happens where there
/// is no mean, or no step has been made.
class Averaged {
 public:
  explicit Averaged(const State& state);
  ~Averaged();
  Averaged(const Averaged&) = delete;
  Averaged& operator=(const Averaged&) = delete;

 private:
  const State& state_;
  HostTensor trained_;
};

}  // namespace fluxlora::train
