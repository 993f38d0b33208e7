// SPDX-License-Identifier: Apache-2.0
// validate.refit: once the held-out pictures have said how long to train, they need not be held
// out.
#pragma once

#include <optional>

#include "train/options.h"

namespace fluxlora::train {

/// The second run of a finished one: all pictures, the best number of steps, no validation, no
/// limit of time, in the folder refit of the first. Nothing without validate.refit, or when no
/// validation was better than the untrained model. Throws Error for metrics.jsonl that cannot be
/// read.
std::optional<RunOptions> refit_options(const RunOptions& finished);

/// Puts the second run's LoRA in the place of the first's.
void take_refit(const RunOptions& finished, const RunOptions& second);

}  // namespace fluxlora::train
