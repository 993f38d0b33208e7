// SPDX-License-Identifier: Apache-2.0
// Inside this room only: what the importers of all peers share, the draft of our configuration and
// the list of what has no counterpart.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "config/import/foreign.h"
#include "config/import/import.h"
#include "config/import/peer_table.h"

namespace fluxlora::config {

class Translator {
 public:
  /// `folder`: where paths are looked for when they are not below the working directory.
  Translator(const PeerTable& table, ForeignList options, std::filesystem::path folder);

  /// The option, or the peer's default of it (table.defaults); null if neither is there or it says
  /// none. It counts as translated.
  const Foreign* take(const std::string& name);
  /// As text, number and yes or no; `otherwise` without the option. Throws Error (bad_input) for
  /// what is no number.
  std::string text(const std::string& name, const std::string& otherwise = "");
  double number(const std::string& name, double otherwise);
  bool flag(const std::string& name) const;

  /// Sets a key of ours, checked as the key's own values are. `from` is named in messages and
  /// beside the value.
  void set(const std::string& key, const std::string& value, const Foreign& from);
  /// Sets a key to a path of the peer's: relative to the working directory, or to the folder of the
  /// foreign file where only that exists.
  void set_path(const std::string& key, const Foreign& from);
  std::filesystem::path resolved(const std::string& path) const;

  /// Lists an option whose value has no counterpart.
  void list(const Foreign& option, Fate fate, const std::string& would);
  /// Copies all options of table.direct and lists the rest that were not taken.
  void finish();
  /// Lists what stands in `options`, named below `prefix`, and is not translated.
  void list_rest(const ForeignList& options, const std::string& prefix);

  train::RunOptions& options() { return result_.options; }
  Imported& result() { return result_; }
  const PeerTable& table() const { return table_; }

 private:
  const PeerTable& table_;
  const ForeignList foreign_;
  ForeignList defaults_;
  const std::filesystem::path folder_;
  std::set<std::string> taken_;
  std::set<std::string> listed_;
  Imported result_;
};

/// A foreign number. Throws Error (bad_input).
double number_of(const Foreign& option);
bool is_on(const Foreign* option);
std::string lower(std::string text);

/// Whole numbers in their text, other numbers in digits that TOML takes.
std::string number_text(double value);

}  // namespace fluxlora::config
