// SPDX-License-Identifier: Apache-2.0
// The checks of a set of pictures: what makes a LoRA worse, with a reason and a remedy each.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/resize.h"
#include "prepare/finding.h"
#include "prepare/measure.h"

namespace fluxlora::prepare {

/// A picture of the subject as the checks see it.
struct Candidate {
  std::filesystem::path path;
  Size source;  ///< upright, pixels
  Box used;     ///< the part that is trained
  Size size;    ///< the training size
  Measures measures;

  std::string file() const { return path.filename().string(); }
};

/// Everything that is wrong: "few", "many" of all pictures together; "small", "shape", "blurred",
/// "dark", "bright", "flat" of one; "duplicate", "similar" of two or more; "background", "pose" of
/// most. Reads the files only to tell equal bytes from equal looks.
std::vector<Finding> check(const std::vector<Candidate>& pictures);

/// The same of a dataset that is about to be trained: its pictures of the subject, each at the
/// largest of its sizes. Decodes every picture once more. Throws Error as read_picture() does.
std::vector<Finding> check(const Dataset& dataset);

}  // namespace fluxlora::prepare
