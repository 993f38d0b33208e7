// SPDX-License-Identifier: Apache-2.0
// metrics.jsonl: one JSON object a line, for programs.
//
//   {"step":12,"loss":0.41,"lr":0.0001,"grad_norm":0.02,"param_norm":9.1,"seconds":0.31,
//    "timesteps":[0.62]}
//   {"step":250,"val_loss":0.39,"drift":0.012}
//
// Numbers are written with the digits that give the same double back; one that is not finite is
// null.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "monitor/sink.h"

namespace fluxlora::monitor {

/// Appends to `path`, which is made if it is not there; each line reaches the file before the next
/// step. Throws Error (environment) when the file cannot be opened or written.
std::unique_ptr<Sink> make_jsonl(const std::filesystem::path& path);

/// Cuts the file back to what was known after `step` steps, so that a resumed run continues it:
/// lines of later steps and a half-written last line go. The bytes of the lines that stay are
/// untouched. Nothing if there is no file. Throws Error (bad_input) for a file that holds other
/// things, Error (environment) when it cannot be written.
void cut_metrics(const std::filesystem::path& path, int64_t step);

/// What a metrics file holds, by step.
struct Metrics {
  struct Step {
    int64_t step = 0;
    double loss = 0, learning_rate = 0, grad_norm = 0, seconds = 0;  ///< NaN for null
    std::vector<double> timesteps;
  };
  struct Validation {
    int64_t step = 0;
    double loss = 0;
    std::optional<double> drift;
  };
  std::vector<Step> steps;
  std::vector<Validation> validations;
};

/// Reads a metrics file; an unfinished last line is left out. Empty if there is no file. Errors as
/// cut_metrics.
Metrics read_metrics(const std::filesystem::path& path);

}  // namespace fluxlora::monitor
