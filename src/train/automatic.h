// SPDX-License-Identifier: Apache-2.0
// Numbers for settings that say "auto", from the pictures.
#pragma once

#include <string>
#include <vector>

#include "data/dataset.h"
#include "train/options.h"

namespace fluxlora::train {

inline constexpr int64_t kAutomatic = 0;  ///< train.steps or lora.rank: to be chosen

/// What the choice goes by.
struct Collection {
  int64_t pictures = 0;  ///< of the subject, without those that are held out
  double variety = 0;    ///< see variety()
};

/// Mean over all pairs of the root mean square difference of 8 x 8 thumbnails, values in [0, 1]:
/// 0 for copies, about 0.1 for one thing in one place, 0.3 for unrelated photographs.
double variety(const std::vector<Picture>& pictures);

/// The choice as a pure function: puts numbers in the place of kAutomatic and returns a sentence
/// for each with the reason. With an automatic rank `lora.alpha` becomes the rank: factor 1.
std::vector<std::string> choose_automatic(RunOptions& options, const Collection& collection);

/// Looks at the pictures if something is automatic. `options` are filled in but for that. Errors as
/// scan().
std::vector<std::string> settle_automatic(RunOptions& options);

}  // namespace fluxlora::train
