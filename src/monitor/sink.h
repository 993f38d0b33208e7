// SPDX-License-Identifier: Apache-2.0
// Events of a run, and who hears them: the console's progress line, metrics.jsonl, the report.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace fluxlora::monitor {

struct StepEvent {
  int64_t step = 0;   ///< steps done, from 1
  int64_t steps = 0;  ///< steps in all
  double loss = 0, learning_rate = 0, grad_norm = 0;
  double seconds = 0;                 ///< wall time of this step
  std::vector<double> timesteps;      ///< flow times of its pictures
  double param_norm = 0;              ///< of the parameters before the step
  std::optional<double> preserved;    ///< loss of train.preservation
  std::optional<double> noise_scale;  ///< pictures (train.gradient_noise)
};

struct ValidationEvent {
  int64_t step = 0;
  double loss = 0;
  double base = 0;                   ///< the loss of the untrained model
  std::optional<double> drift = {};  ///< of neutral prompts from the base, where it was measured
};

struct SamplesEvent {
  int64_t step = 0;
  std::vector<std::string> files;  ///< PNG paths
  std::vector<std::string> prompts;
};

class Sink {
 public:
  virtual ~Sink() = default;
  virtual void on_step(const StepEvent&) {}
  virtual void on_validation(const ValidationEvent&) {}
  virtual void on_samples(const SamplesEvent&) {}
  /// A line for people: "caching latents 3/12", "checkpoint 250 saved".
  virtual void on_note(const std::string&) {}
  /// The run is over; `reason` says why it stopped.
  virtual void on_end(const std::string& reason) { (void)reason; }
};

}  // namespace fluxlora::monitor
