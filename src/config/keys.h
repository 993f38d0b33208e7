// SPDX-License-Identifier: Apache-2.0
// Inside this room only: the one table of keys that reading, writing, comparing and docs/config.md
// are made from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "train/options.h"

namespace fluxlora::config {

/// Where the value of a key lies in its owner, which is a RunOptions or a FolderOptions.
template <typename Owner, typename Value>
using Member = Value& (*)(Owner&);

template <typename Owner>
using Access =
    std::variant<Member<Owner, bool>, Member<Owner, int64_t>, Member<Owner, double>,
                 Member<Owner, std::optional<double>>, Member<Owner, std::string>,
                 Member<Owner, std::optional<std::string>>, Member<Owner, std::filesystem::path>,
                 Member<Owner, std::vector<std::string>>, Member<Owner, std::vector<int64_t>>>;

/// The numbers that a key takes.
struct Limits {
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  bool above_least = false;  ///< least itself is not allowed
  bool below_most = false;   ///< most itself is not allowed
  int64_t multiple = 1;      ///< of this number
  bool zero_too = false;     ///< 0 is allowed beside the rest
};

/// "a multiple of 16 from 16 to 8192, or 0", "above 0"; empty without limits.
std::string describe(const Limits& limits);
bool within(const Limits& limits, double value);

enum class Kind {
  plain,
  path,      ///< relative to the configuration's folder
  out_path,  ///< relative to the working directory
  model,     ///< as path, but "tiny" is a name
  folder,    ///< dataset.path, short for one of dataset.folders; it has no place of its own
  name,      ///< a file is called so
  word,      ///< not blank, spaces at the ends are cut
};

/// What a key says about a run.
enum class Says {
  result,  ///< decides what comes out
  origin,  ///< says where it came from: counts when runs are compared, is no part of the metadata
  place,   ///< says only where to put it
};

template <typename Owner>
struct Key {
  std::string table, name;
  Access<Owner> access;
  std::string meaning;
  std::string source = "";  ///< of the default
  std::string unit = "";
  Limits limits = {};
  std::optional<int64_t> automatic = {};  ///< what the word "auto" stands for; none: not taken
  std::vector<std::string> choices = {};  ///< the words that it takes; empty: any
  Kind kind = Kind::plain;
  Says says = Says::result;
  std::string absent = "";  ///< for the documentation: what an empty or zero default means

  std::string full() const { return table + "." + name; }
};

using RunKey = Key<train::RunOptions>;
using FolderKey = Key<FolderOptions>;

/// All keys but those of the folders, by table, in the order of docs/config.md.
std::span<const RunKey> run_keys();
/// The keys of one [[dataset.folders]].
std::span<const FolderKey> folder_keys();
/// The tables in their order, with what each is about.
struct Table {
  std::string name, meaning;
};
std::span<const Table> tables();
/// Tables and keys ("memory", "dataset.folders.mask") that are planned and do nothing yet.
std::span<const std::string> later_names();

}  // namespace fluxlora::config
