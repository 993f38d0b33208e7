// SPDX-License-Identifier: Apache-2.0
// Inside this room only: one value, from TOML into its place and back.
#pragma once

#include <filesystem>
#include <string>

#include <toml++/toml.h>

#include "config/keys.h"

namespace fluxlora::config {

/// Where a value was written.
struct Place {
  std::string where;           ///< "photos.toml:12:3" or "--set"
  std::filesystem::path base;  ///< relative paths start here
};

/// Puts the value of `node` into `owner`. Throws Error (bad_input) for another type or a value that
/// the key does not take. Not for Kind::folder.
void assign(train::RunOptions& owner, const RunKey& key, const toml::node& node,
            const Place& place);
void assign(FolderOptions& owner, const FolderKey& key, const toml::node& node, const Place& place);

/// The path in `node` as Kind::path takes it.
std::filesystem::path read_path(const std::string& key, const toml::node& node, const Place& place);

/// The value as TOML, paths absolute; empty when an optional one is not set.
std::string value_text(const train::RunOptions& owner, const RunKey& key);
std::string value_text(const FolderOptions& owner, const FolderKey& key);

/// A string as TOML.
std::string toml_string(const std::string& text);

}  // namespace fluxlora::config
