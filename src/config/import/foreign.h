// SPDX-License-Identifier: Apache-2.0
// Inside this room only: a peer's configuration, whatever its syntax, as a flat list of options.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"

namespace fluxlora::config {

/// One option as it was written: a flag has no value, a list several.
struct Foreign {
  std::string name;  ///< "network_dim", "train.lr"
  std::vector<std::string> values;
  std::string where;  ///< "train.toml:12" or "train.sh"

  /// "true" for a flag, the values one after the other.
  std::string text() const;
  /// Whether it says: nothing, none, no, false or 0.
  bool is_off() const;
};

using ForeignList = std::vector<Foreign>;

/// The last option of that name, as parsers take it; null if there is none.
const Foreign* find_option(const ForeignList& list, const std::string& name);

/// `base` and over it `more`: an option of `more` replaces those of its name.
ForeignList overlaid(const ForeignList& base, const ForeignList& more);

/// What a peer's YAML or TOML file holds: options, and lists of tables by their name ("datasets").
struct ForeignTree {
  struct Branch {
    std::string name;  ///< of the list: "datasets", "sample.samples"
    ForeignList options;
    std::vector<Branch> branches;
  };
  Branch root;
};

/// TOML, names as they stand in their tables: "section.key". Throws Error (bad_input) for what is
/// no TOML.
ForeignTree read_foreign_toml(const std::filesystem::path& path);

/// YAML or JSON. Throws Error (bad_input) for what is neither, is larger than any configuration, or
/// repeats itself through anchors beyond reason.
ForeignTree read_foreign_yaml(const std::filesystem::path& path);

/// A command line: its words, and where they were read.
struct Command {
  std::vector<std::string> words;
  std::string where;
};

/// The commands in a shell script: quotes, continued lines (\, ^ or `), comments and the script's
/// own variables are understood. Throws Error (bad_input) for a quote that is not closed and for a
/// variable that the script does not set.
std::vector<Command> read_commands(const std::filesystem::path& path);

/// "--name value ...", "--name=value" and flags, as Python's argparse reads them.
ForeignList parse_arguments(const Command& command, size_t first);

}  // namespace fluxlora::config
