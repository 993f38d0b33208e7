// SPDX-License-Identifier: Apache-2.0
// From a file and the command line to options: which key stands where.
#include <algorithm>
#include <map>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/nearest.h"
#include "config/config.h"
#include "config/import/import.h"
#include "config/values.h"

namespace fluxlora::config {

namespace fs = std::filesystem;

namespace {

constexpr const char* kFolders = "folders";

template <typename Named>
const Named* find(std::span<const Named> keys, const std::string& table, const std::string& name) {
  for (const Named& key : keys)
    if (key.table == table && key.name == name) return &key;
  return nullptr;
}

std::string in_brackets(const std::string& table) {
  return table == "dataset.folders" ? "[[dataset.folders]]" : "[" + table + "]";
}

bool is_table(const std::string& name) {
  const auto all = tables();
  return std::any_of(all.begin(), all.end(), [&](const Table& t) { return t.name == name; });
}

bool comes_later(const std::string& full_name) {
  const auto names = later_names();
  const std::string table = full_name.substr(0, full_name.find('.'));
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& n) { return n == full_name || n == table; });
}

/// Every key as (table, name), folders' last.
std::vector<std::pair<std::string, std::string>> all_names() {
  std::vector<std::pair<std::string, std::string>> names;
  for (const RunKey& key : run_keys()) names.emplace_back(key.table, key.name);
  for (const FolderKey& key : folder_keys()) names.emplace_back(key.table, key.name);
  return names;
}

/// What was meant by `name` in `table`: the same word in another table, else the nearest word in
/// this table, else the nearest in another one, else all words of this table.
std::string meant_key(const std::string& table, const std::string& name) {
  std::vector<std::string> here, everywhere;
  for (const auto& [other, word] : all_names()) {
    if (word == name) return fmt::format("it belongs in {}", in_brackets(other));
    if (other == table) here.push_back(word);
    everywhere.push_back(word);
  }
  if (const auto near = nearest_name(name, here)) return fmt::format("did you mean \"{}\"?", *near);
  if (const auto near = nearest_name(name, everywhere)) {
    for (const auto& [other, word] : all_names())
      if (word == *near) return fmt::format("did you mean \"{}\" in {}?", word, in_brackets(other));
  }
  return fmt::format("{} has the keys {}", in_brackets(table), fmt::join(here, ", "));
}

[[noreturn]] void unknown_key(const std::string& where, const std::string& table,
                              const std::string& name) {
  if (comes_later(table + "." + name))
    throw bad_input(where, fmt::format("{}.{} is not supported yet", table, name), "remove it");
  throw bad_input(where, fmt::format("unknown key \"{}\" in {}", name, in_brackets(table)),
                  meant_key(table, name));
}

[[noreturn]] void unknown_table(const std::string& where, const std::string& name,
                                bool looks_like_table) {
  if (comes_later(name))
    throw bad_input(where, fmt::format("[{}] is not supported yet", name), "remove it");
  std::vector<std::string> names;
  for (const Table& table : tables()) names.push_back(table.name);
  for (const auto& [table, word] : all_names()) {
    if (word != name) continue;
    throw bad_input(where, fmt::format("the key \"{}\" stands outside of its table", name),
                    fmt::format("move it below {}", in_brackets(table)));
  }
  const auto near = nearest_name(name, names);
  throw bad_input(where,
                  looks_like_table ? fmt::format("unknown table [{}]", name)
                                   : fmt::format("unknown key \"{}\" outside of a table", name),
                  near ? fmt::format("did you mean [{}]?", *near)
                       : fmt::format("the tables are {}", fmt::join(names, ", ")));
}

// ---- a file -------------------------------------------------------------------------------------

using Entry = std::pair<const toml::key*, const toml::node*>;

/// A table's entries as they follow each other in the file, so that the first mistake is named.
std::vector<Entry> in_order(const toml::table& table) {
  std::vector<Entry> entries;
  for (const auto& [key, node] : table) entries.emplace_back(&key, &node);
  const auto place = [](const Entry& e) {
    const toml::source_position at = e.first->source().begin;
    return std::pair(at.line, at.column);
  };
  std::stable_sort(entries.begin(), entries.end(),
                   [&](const Entry& a, const Entry& b) { return place(a) < place(b); });
  return entries;
}

class FileReader {
 public:
  FileReader(train::RunOptions& options, const fs::path& path) : options_(options), path_(path) {}

  void read() {
    const std::string text = read_text(path_);
    toml::table root;
    try {
      root = toml::parse(std::string_view(text), std::string_view(path_.native()));
    } catch (const toml::parse_error& problem) {
      throw bad_input(at(problem.source().begin), one_line(std::string(problem.description())),
                      "write TOML: a [table] line, then lines such as key = \"text\", 1.5 or true");
    }
    for (const auto& [key, node] : in_order(root)) read_table(*key, *node);
  }

 private:
  std::string at(const toml::source_position& position) const {
    return fmt::format("{}:{}:{}", path_.string(), position.line, position.column);
  }
  Place place(const toml::key& key) const { return {at(key.source().begin), path_.parent_path()}; }

  static std::string one_line(std::string text) {
    constexpr std::string_view kPrefix = "Error while ";
    if (text.starts_with(kPrefix)) text = text.substr(kPrefix.size());
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
  }

  void read_table(const toml::key& key, const toml::node& node) {
    const std::string name(key.str());
    if (!is_table(name)) unknown_table(place(key).where, name, node.is_table());
    const toml::table* table = node.as_table();
    if (!table)
      throw bad_input(place(key).where, fmt::format("{} should be one table", name),
                      fmt::format("write [{}] on a line of its own, its keys below", name));
    for (const auto& [inner, value] : in_order(*table)) read_key(name, *inner, *value);
  }

  void read_key(const std::string& table, const toml::key& key, const toml::node& node) {
    const std::string name(key.str());
    if (table == "dataset" && name == kFolders) return read_folders(key, node);
    const RunKey* known = find(run_keys(), table, name);
    if (!known) unknown_key(place(key).where, table, name);
    if (known->kind != Kind::folder) return assign(options_, *known, node, place(key));
    short_path_ = place(key).where;
    if (!folders_.empty()) both(short_path_);
    options_.dataset.folders.resize(1);
    options_.dataset.folders[0].path = read_path(known->full(), node, place(key));
  }

  void read_folders(const toml::key& key, const toml::node& node) {
    folders_ = place(key).where;
    if (!short_path_.empty()) both(folders_);
    const toml::array* list = node.as_array();
    const bool tables_only =
        list && std::all_of(list->begin(), list->end(),
                            [](const toml::node& item) { return item.is_table(); });
    if (!tables_only)
      throw bad_input(folders_, "dataset.folders should be a list of tables",
                      "write [[dataset.folders]] on a line of its own, path = \"...\" below");
    for (const toml::node& item : *list) {
      FolderOptions folder;
      for (const auto& [inner, value] : in_order(*item.as_table())) {
        const std::string name(inner->str());
        const FolderKey* known = find(folder_keys(), "dataset.folders", name);
        if (!known) unknown_key(place(*inner).where, "dataset.folders", name);
        assign(folder, *known, *value, place(*inner));
      }
      if (folder.path.empty())
        throw bad_input(at(item.source().begin), "one of the [[dataset.folders]] has no path",
                        "add path = \"photos/\" to it");
      options_.dataset.folders.push_back(std::move(folder));
    }
  }

  [[noreturn]] static void both(const std::string& where) {
    throw bad_input(where, "both dataset.path and [[dataset.folders]] are given",
                    "keep one: dataset.path is short for one folder");
  }

  train::RunOptions& options_;
  const fs::path path_;
  std::string short_path_, folders_;  ///< where dataset.path and dataset.folders stand
};

// ---- the command line ---------------------------------------------------------------------------

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t") + 1 - first);
}

[[noreturn]] void unknown_setting(const std::string& where, const std::string& name) {
  const size_t dot = name.find('.');
  const std::string table = name.substr(0, dot);
  if (dot != std::string::npos && is_table(table)) {
    if (name == "dataset.folders")
      throw bad_input(where, "dataset.folders cannot be set on the command line",
                      "write [[dataset.folders]] into the file, or set dataset.path");
    unknown_key(where, table, name.substr(dot + 1));
  }
  if (dot != std::string::npos) unknown_table(where, table, true);
  for (const auto& [other, word] : all_names())
    if (word == name)
      throw bad_input(where, fmt::format("the key \"{}\" needs its table", name),
                      fmt::format("write {}.{}", other, word));
  throw bad_input(where, fmt::format("the key \"{}\" needs its table", name),
                  "write --set table.key=value");
}

void apply_setting(train::RunOptions& options, const std::string& setting) {
  const size_t equals = setting.find('=');
  const std::string name = trimmed(setting.substr(0, equals));
  const Place place{"--set", ""};
  if (equals == std::string::npos || name.empty())
    throw bad_input(place.where, fmt::format("\"{}\" gives no value", setting),
                    "write --set table.key=value");
  const size_t dot = name.find('.');
  const RunKey* key = dot == std::string::npos
                          ? nullptr
                          : find(run_keys(), name.substr(0, dot), name.substr(dot + 1));
  if (!key) unknown_setting(place.where, name);
  const std::string text = trimmed(setting.substr(equals + 1));
  if (key->kind != Kind::folder) return assign_text(options, *key, text, place);
  options.dataset.folders.assign(1, {});
  options.dataset.folders[0].path = read_path(name, *text_as_toml(text, true).get("value"), place);
}

void check_required(const train::RunOptions& options, const std::string& file) {
  const auto missing = [&](const char* key, const char* hint) {
    throw bad_input(file, fmt::format("{} is missing", key), hint);
  };
  if (options.model.path.empty())
    missing("model.path", "add path = \"tiny\" or the folder of FLUX.1-dev below [model]");
  if (options.subject.trigger.empty())
    missing("subject.trigger", "add trigger = \"a rare word\" below [subject]");
  const auto& folders = options.dataset.folders;
  if (folders.empty() || folders.front().path.empty())
    missing("dataset.path", "add path = \"the folder of your pictures\" below [dataset]");
}

train::RunOptions import_and_report(const fs::path& path) {
  const Imported imported = import_config({path.string()});
  log_info(fmt::format("{}: read as a configuration of {}", path.string(), imported.peer));
  for (const std::string& line : import_report(imported)) log_info("  " + line);
  return imported.options;
}

}  // namespace

train::RunOptions default_options() {
  train::RunOptions options;
  options.dataset.resolution = 0;
  return options;
}

train::RunOptions load_config(const fs::path& path, const std::vector<std::string>& sets) {
  train::RunOptions options = default_options();
  if (is_foreign(path))
    options = import_and_report(path);
  else
    FileReader(options, path).read();
  for (const std::string& setting : sets) apply_setting(options, setting);
  check_required(options, path.string());
  if (options.output.path.empty()) options.output.path = fs::path("runs") / options.subject.name;
  return options;
}

}  // namespace fluxlora::config
