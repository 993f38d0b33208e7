// SPDX-License-Identifier: Apache-2.0
// Learning rates by group: of B, and of modules by name.
#pragma once

#include <vector>

#include "lora/adapter.h"
#include "optim/optimizer.h"
#include "train/options.h"

namespace fluxlora::train {

/// The matrices of `adapters`, each with its share of the learning rate: the product of the rates
/// whose pattern fits its module (`options.rates`), times `options.b_ratio` for a B. Throws Error
/// (bad_input) for a rate that is not "PATTERN = NUMBER" or whose pattern fits no trained module.
std::vector<optim::Part> parameter_parts(const lora::AdapterSet& adapters,
                                         const TrainOptions& options);

}  // namespace fluxlora::train
