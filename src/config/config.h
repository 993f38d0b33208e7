// SPDX-License-Identifier: Apache-2.0
// Configuration: TOML text to each room's own options and back. All keys: docs/config.md.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "train/options.h"

namespace fluxlora::config {

/// What an empty configuration would mean. `dataset.resolution`, `sample.width` and `.height` are
/// 0: the model's own, which the trainer fills in once it knows the model.
train::RunOptions default_options();

/// Reads a configuration. `sets` are command-line overrides "table.key=value": the value is TOML, a
/// bare word a string. Relative paths of the file are relative to its folder, those of `sets` and
/// `output.path` to the working directory; an empty `output.path` becomes runs/<subject.name>.
/// Throws Error (bad_input), WHERE being "FILE:LINE:COLUMN" or "--set": no such file, TOML
/// syntax, unknown or misplaced key (naming the nearest), wrong type, out of range, not supported
/// yet, required key missing.
train::RunOptions load_config(const std::filesystem::path& path,
                              const std::vector<std::string>& sets = {});

/// The configuration with every default written out and absolute paths: what config.toml of a run
/// holds. Loading it gives the same options.
std::string to_toml(const train::RunOptions& options);

/// The part that decides what comes out, for a LoRA's metadata: no paths, device, threads or
/// memory; model and dataset stand as the hashes of their content.
std::string identity_toml(const train::RunOptions& options, const std::string& model_hash,
                          const std::string& dataset_hash);

/// A key whose values differ, as TOML.
struct Difference {
  std::string key;  ///< "lora.rank", "dataset.folders[1].weight"
  std::string a, b;
};

/// The first key, in the order of docs/config.md, that makes two runs different ones. What changes
/// no result does not count: output.path and dataset.cache.
std::optional<Difference> first_difference(const train::RunOptions& a, const train::RunOptions& b);

/// The text of docs/config.md.
std::string reference_page();

}  // namespace fluxlora::config
