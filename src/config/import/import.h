// SPDX-License-Identifier: Apache-2.0
// The configurations of other trainers become ours, with a list of what has no counterpart:
// docs/import.md.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "config/config.h"
#include "config/import/peer_table.h"

namespace fluxlora::config {

/// An option of the peer's without a counterpart.
struct Listed {
  Fate fate;
  std::string option, value;
  std::string would;  ///< what it would have done: "train the CLIP text encoder too"
};

struct Imported {
  std::string peer;                           ///< "kohya", "ai-toolkit" or "diffusers"
  train::RunOptions options;                  ///< paths absolute
  std::map<std::string, std::string> origin;  ///< key of ours -> the peer's option it came from
  std::vector<Listed> listed;
};

/// Whether the file is another trainer's: YAML, JSON, a script with a command line, or TOML with
/// kohya's options.
bool is_foreign(const std::filesystem::path& path);

/// Reads a foreign file, or a command line given as words. What the configuration does not say is
/// the peer's default, not ours. Throws Error (bad_input) naming the foreign file for a trainer
/// that is not known, a model that is not FLUX.1, and values that no option takes.
Imported import_config(const std::vector<std::string>& words);

/// The result as a configuration of ours: only what was set, each line with the peer's option
/// beside it, what has no counterpart above.
std::string imported_toml(const Imported& imported);

/// One line for each listed option, the ones that change the result first.
std::vector<std::string> import_report(const Imported& imported);

}  // namespace fluxlora::config
