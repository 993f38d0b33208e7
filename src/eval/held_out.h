// SPDX-License-Identifier: Apache-2.0
// Which pictures are kept out of training to tell learning from memorising.
#pragma once

#include <cstdint>
#include <vector>

#include "data/dataset.h"

namespace fluxlora::eval {

/// How many of `pictures` are held out: two below 12, else one in six, at most five; none of fewer
/// than four, since the rest would be too little to learn from.
int64_t held_out_count(int64_t pictures);

/// For each example whether it is held out: `count` pictures chosen at random by `seed`, never a
/// regularisation picture, and a picture at all its sizes or at none. A negative count means
/// held_out_count(). Throws Error (bad_input) when fewer than two would stay for training.
std::vector<bool> choose_held_out(const std::vector<Example>& examples, int64_t count,
                                  uint64_t seed);

}  // namespace fluxlora::eval
