// SPDX-License-Identifier: Apache-2.0
// report.html: a run on one page that needs no network.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace fluxlora::monitor {

struct ReportInfo {
  std::string name;                   ///< subject.name
  std::string trigger;                ///< the word that calls the subject
  std::string status;                 ///< "finished: 2000 steps", "running: 250 of 2000 steps"
  std::string config;                 ///< config.toml's text
  std::vector<std::string> prompts;   ///< of the samples, in the order of their files
  std::vector<std::string> warnings;  ///< about the pictures and the run, one line each
  /// What else is worth a row above the settings: {"pictures", "12"}, {"device", "cpu (2
  /// threads)"}.
  std::vector<std::pair<std::string, std::string>> facts;
};

/// Writes FOLDER/report.html (whole or not at all) from what the run's folder holds: metrics.jsonl,
/// samples/step-*/*.png and before_after.png, each left out if it is not there. Made at every
/// checkpoint and at the end. Throws Error (environment) when it cannot be written.
void write_report(const std::filesystem::path& folder, const ReportInfo& info);

}  // namespace fluxlora::monitor
