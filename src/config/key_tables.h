// SPDX-License-Identifier: Apache-2.0
// Inside this room only: the keys table by table, one file each, and the ranges they share.
#pragma once

#include "config/keys.h"

/// The member of an owner, as Access wants it.
#define FLUXLORA_MEMBER(Owner, member) [](Owner& o) -> auto& { return o.member; }
#define AT(member) FLUXLORA_MEMBER(train::RunOptions, member)

namespace fluxlora::config {

inline constexpr double kLargestCount = 100'000'000;  // of steps and the like
inline constexpr double kLargestSide = 8192;          // pixels

inline Limits at_least(double least, double most = std::numeric_limits<double>::infinity()) {
  return {.least = least, .most = most};
}
inline Limits above(double least) {
  return {.least = least, .above_least = true};
}
inline Limits side(bool zero_too) {
  return {.least = 16, .most = kLargestSide, .multiple = 16, .zero_too = zero_too};
}

std::vector<RunKey> model_keys();
std::vector<RunKey> subject_keys();
std::vector<RunKey> dataset_keys();
std::vector<RunKey> lora_keys();
std::vector<RunKey> train_keys();
std::vector<RunKey> optimizer_keys();
std::vector<RunKey> timestep_keys();
std::vector<RunKey> memory_keys();
std::vector<RunKey> validate_keys();
std::vector<RunKey> sample_keys();
std::vector<RunKey> output_keys();

}  // namespace fluxlora::config
