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

/// As assign, the value written as --set and peers write it: TOML, a bare word is text, and text
/// where text is wanted.
void assign_text(train::RunOptions& owner, const RunKey& key, const std::string& text,
                 const Place& place);

/// `text` as a TOML value under the key "value", or as a string if it is none or `wants_text`.
toml::table text_as_toml(const std::string& text, bool wants_text);

/// The path in `node` as Kind::path takes it.
std::filesystem::path read_path(const std::string& key, const toml::node& node, const Place& place);

/// The value as TOML, paths absolute; empty when an optional one is not set.
std::string value_text(const train::RunOptions& owner, const RunKey& key);
std::string value_text(const FolderOptions& owner, const FolderKey& key);

/// A string as TOML.
std::string toml_string(const std::string& text);

}  // namespace fluxlora::config
