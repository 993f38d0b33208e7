// SPDX-License-Identifier: Apache-2.0
// Samples before, during and after training: the same prompts and seeds each time.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "eval/painter.h"
#include "train/encode.h"
#include "train/run_folder.h"

namespace fluxlora::train {

class Previews {
 public:
  /// Adapters are attached before; everything outlives it.
  Previews(Device& device, flux::Transformer& model, const ModelFiles& folder,
           const Encoded& encoded, const RunOptions& options);

  /// Whether pictures belong to the state after `step` steps: at 0, every sample.every, at the end.
  static bool due(const RunOptions& options, int64_t step);

  /// Takes the memory of sampling, then that of decoding, and gives it back.
  /// Paints samples/step-NNNNNN/NN.png, whole or not at all, and returns their paths. When `stop`
  /// says so between two pictures nothing is written and the list is empty.
  std::vector<std::string> paint(const RunPaths& paths, int64_t step,
                                 const std::function<bool()>& stop);

 private:
  Device& device_;
  flux::Transformer& model_;
  const ModelFiles& folder_;
  const Encoded& encoded_;
  SampleOptions options_;
  int64_t text_tokens_;
};

/// The pictures of a samples folder in their order.
std::vector<std::string> sample_files(const std::filesystem::path& folder);

/// before_after.png: the first samples above those of step `after`; nothing without both.
void write_before_after(const RunPaths& paths, int64_t after);

}  // namespace fluxlora::train
