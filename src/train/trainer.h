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

/// Who hears of the run, and who may end it.
struct Company {
  std::vector<monitor::Sink*> sinks;  ///< beside metrics.jsonl and report.html
  std::function<bool()> stop;         ///< true: save and leave; asked between steps and pictures
};

/// How a run ended.
struct Outcome {
  bool stopped = false;  ///< by `stop`; the state is saved
  int64_t step = 0;      ///< steps done
  std::string reason;    ///< one line for people
};

class Trainer {
 public:
  /// `options` are filled in (fill_in.h); the sinks outlive the trainer.
  Trainer(Device& device, RunOptions options, Texts texts, Company company);

  /// Checks, prepares, trains, samples, exports, reports. `resume` goes on from the newest whole
  /// checkpoint, and the result is the same byte for byte as of a run that never stopped. Throws
  /// Error; whatever is thrown, the checkpoints that were there remain.
  Outcome run(bool resume);

 private:
  Device& device_;
  RunOptions options_;
  Texts texts_;
  Company company_;
};

}  // namespace fluxlora::train
