// SPDX-License-Identifier: Apache-2.0
// The whole job of a run, from pictures to a LoRA.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "monitor/sink.h"
#include "ops/device.h"
#include "train/options.h"

namespace fluxlora::train {

/// What the configuration says in words; this room does not know its language.
struct Texts {
  std::string config;  ///< config.toml
  /// The part that decides the result, for the LoRA's metadata, given the hashes of the model's and
  /// the dataset's content.
  std::function<std::string(const std::string& model, const std::string& dataset)> identity;
};

/// How a run ended.
struct Outcome {
  int status = 0;      ///< 0, or 128 + the signal that stopped it
  int64_t step = 0;    ///< steps done
  std::string reason;  ///< one line for people
};

class Trainer {
 public:
  /// `options` are filled in (fill_in.h). `sinks` hear of everything and outlive the trainer;
  /// metrics.jsonl and report.html are the trainer's own.
  Trainer(Device& device, RunOptions options, Texts texts, std::vector<monitor::Sink*> sinks);

  /// Checks, prepares, trains, samples, exports, reports. `resume` goes on from the newest whole
  /// checkpoint, and the result is the same byte for byte as of a run that never stopped. Throws
  /// Error; whatever is thrown, the checkpoints that were there remain.
  Outcome run(bool resume);

 private:
  Device& device_;
  RunOptions options_;
  Texts texts_;
  std::vector<monitor::Sink*> sinks_;
};

}  // namespace fluxlora::train
