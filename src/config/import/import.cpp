// SPDX-License-Identifier: Apache-2.0
#include "config/import/import.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "base/file.h"
#include "config/import/foreign.h"
#include "config/import/peers.h"
#include "config/import/translator.h"
#include "config/values.h"

namespace fluxlora::config {

namespace fs = std::filesystem;

namespace {

std::string ending_of(const fs::path& path) {
  return lower(path.extension().string());
}

bool is_yaml(const fs::path& path) {
  const std::string ending = ending_of(path);
  return ending == ".yaml" || ending == ".yml" || ending == ".json";
}

bool is_script(const fs::path& path) {
  const std::string ending = ending_of(path);
  return ending == ".sh" || ending == ".bat" || ending == ".cmd" || ending == ".ps1" ||
         ending == ".txt";
}

/// What a TOML file of kohya's is.
enum class KohyaToml { none, training, dataset };

KohyaToml kohya_toml(const ForeignTree::Branch& root) {
  for (const auto& branch : root.branches)
    if (branch.name == "datasets") return KohyaToml::dataset;
  for (const Foreign& option : root.options)
    for (const char* name :
         {"pretrained_model_name_or_path", "network_module", "dataset_config", "train_data_dir"})
      if (option.name.substr(option.name.rfind('.') + 1) == name) return KohyaToml::training;
  return KohyaToml::none;
}

KohyaToml kohya_toml(const fs::path& path) {
  if (ending_of(path) != ".toml" || !file_exists(path)) return KohyaToml::none;
  try {
    return kohya_toml(read_foreign_toml(path).root);
  } catch (const Error& problem) {
    if (problem.kind() == ErrorKind::internal) throw;
    return KohyaToml::none;  // the reader of our own files says what is wrong
  }
}

bool ends_with_any(const std::string& word, std::initializer_list<const char*> endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](const char* ending) { return word.ends_with(ending); });
}

/// The first command that trains FLUX.1. Null words when there is none.
std::optional<Imported> import_command(const Command& command, const fs::path& folder) {
  for (size_t i = 0; i < command.words.size(); ++i) {
    const std::string& word = command.words[i];
    if (word.ends_with("flux_train_network.py"))
      return import_kohya(parse_arguments(command, i + 1), folder);
    if (ends_with_any(word,
                      {"train_dreambooth_lora_flux.py", "train_dreambooth_lora_flux_advanced.py"}))
      return import_diffusers(parse_arguments(command, i + 1), folder);
    if (ends_with_any(word, {"train_network.py", "_train.py"}) ||
        (word.find("train_") != std::string::npos && word.ends_with(".py")))
      throw bad_input(command.where, fmt::format("{} does not train a LoRA of FLUX.1", word),
                      "give a command with flux_train_network.py or train_dreambooth_lora_flux.py");
    if (i > 0 && is_yaml(word) && command.words[i - 1].ends_with("run.py")) {
      const fs::path beside = folder / word;
      return import_ai_toolkit(file_exists(word) || !file_exists(beside) ? fs::path(word) : beside);
    }
  }
  return std::nullopt;
}

Imported import_file(const fs::path& path) {
  if (is_yaml(path)) return import_ai_toolkit(path);
  const std::string where = path.string();
  if (ending_of(path) == ".toml") {
    const ForeignTree tree = read_foreign_toml(path);
    switch (kohya_toml(tree.root)) {
      case KohyaToml::dataset:
        return import_kohya_dataset(path);
      case KohyaToml::training:
        return import_kohya({{"config_file", {where}, where}}, path.parent_path());
      case KohyaToml::none:
        throw bad_input(where, "is no configuration of kohya's",
                        "a file of fluxlora's own needs no import: fluxlora train takes it");
    }
  }
  for (const Command& command : read_commands(path))
    if (auto imported = import_command(command, path.parent_path())) return *imported;
  throw bad_input(where, "holds no command that is known",
                  "give a script with flux_train_network.py or train_dreambooth_lora_flux.py, a "
                  "kohya TOML or an ai-toolkit YAML");
}

std::string one_line(std::string text) {
  std::replace_if(text.begin(), text.end(), [](unsigned char c) { return c < 0x20; }, ' ');
  return text;
}

std::string folder_toml(const FolderOptions& folder) {
  std::string text = "\n[[dataset.folders]]\n";
  const FolderOptions standard;
  for (const FolderKey& key : folder_keys()) {
    const std::string value = value_text(folder, key);
    if (!value.empty() && value != value_text(standard, key))
      text += fmt::format("{} = {}\n", key.name, value);
  }
  return text;
}

}  // namespace

bool is_foreign(const fs::path& path) {
  return is_yaml(path) || is_script(path) || kohya_toml(path) != KohyaToml::none;
}

Imported import_config(const std::vector<std::string>& words) {
  CHECK(!words.empty(), "import_config wants a file or a command");
  const auto starts_option = [](const std::string& word) { return word.starts_with("--"); };
  if (words.size() == 1 || std::none_of(words.begin(), words.end(), starts_option)) {
    if (words.size() == 1) return import_file(words.front());
  }
  if (auto imported = import_command({words, "command line"}, ".")) return *imported;
  throw bad_input("command line", "holds no training script that is known",
                  "write the whole command behind --, from accelerate or python on");
}

std::string imported_toml(const Imported& imported) {
  std::string text = fmt::format(
      "# From a configuration of {}; beside each value the option it came "
      "from.\n",
      imported.peer);
  const std::vector<std::string> report = import_report(imported);
  if (!report.empty()) text += "#\n# Without a counterpart:\n";
  for (const std::string& line : report) text += "#   " + line + "\n";
  for (const Table& table : tables()) {
    std::string body;
    for (const RunKey& key : run_keys()) {
      const auto from = imported.origin.find(key.full());
      if (key.table != table.name || from == imported.origin.end()) continue;
      const std::string value = value_text(imported.options, key);
      if (!value.empty()) body += fmt::format("{} = {}  # {}\n", key.name, value, from->second);
    }
    if (table.name == "dataset")
      for (const FolderOptions& folder : imported.options.dataset.folders)
        body += folder_toml(folder);
    if (!body.empty()) text += fmt::format("\n[{}]\n{}", table.name, body);
  }
  return text;
}

std::vector<std::string> import_report(const Imported& imported) {
  std::vector<std::string> lines;
  const std::pair<Fate, const char*> fates[] = {{Fate::lost, "changes the result"},
                                                {Fate::done, "same result"},
                                                {Fate::elsewhere, "no effect on FLUX.1"}};
  for (const auto& [fate, meaning] : fates)
    for (const Listed& listed : imported.listed)
      if (listed.fate == fate)
        lines.push_back(one_line(fmt::format("{} = {}: would {} ({})", listed.option, listed.value,
                                             listed.would, meaning)));
  return lines;
}

}  // namespace fluxlora::config
