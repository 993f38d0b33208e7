// SPDX-License-Identifier: Apache-2.0
// From options to text: config.toml, a LoRA's metadata, the comparison of two runs, docs/config.md.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/config.h"
#include "config/values.h"

namespace fluxlora::config {
namespace {

/// The tables one after the other; `line` gives the text of a key, empty to leave it out.
template <typename RunLine, typename FolderLine>
std::string write_tables(const train::RunOptions& options, RunLine run_line,
                         FolderLine folder_line) {
  std::string text;
  const auto add = [&](const std::string& name, const std::string& value) {
    if (!value.empty()) text += fmt::format("{} = {}\n", name, value);
  };
  for (const Table& table : tables()) {
    text += fmt::format("{}[{}]\n", text.empty() ? "" : "\n", table.name);
    for (const RunKey& key : run_keys())
      if (key.table == table.name && key.kind != Kind::folder) add(key.name, run_line(key));
    if (table.name != "dataset") continue;
    for (const FolderOptions& folder : options.dataset.folders) {
      text += "\n[[dataset.folders]]\n";
      for (const FolderKey& key : folder_keys()) add(key.name, folder_line(folder, key));
    }
  }
  return text;
}

// ---- docs/config.md -----------------------------------------------------------------------------

std::string cell(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '|') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

std::string code_list(const std::vector<std::string>& words) {
  std::vector<std::string> quoted_words;
  for (const std::string& word : words) quoted_words.push_back(fmt::format("`{}`", word));
  return fmt::format("{}", fmt::join(quoted_words, ", "));
}

template <typename Owner>
std::string type_of(const Key<Owner>& key) {
  if (!key.choices.empty()) return code_list(key.choices);
  const std::string range = describe(key.limits);
  const auto with = [&](const std::string& type) {
    return range.empty() ? type : range.starts_with("a multiple") ? range : type + " " + range;
  };
  struct {
    const decltype(with)& add;
    bool automatic;
    std::string operator()(Member<Owner, bool>) const { return "true or false"; }
    std::string operator()(Member<Owner, int64_t>) const {
      return add("whole number") + (automatic ? ", or `auto`" : "");
    }
    std::string operator()(Member<Owner, double>) const { return add("number"); }
    std::string operator()(Member<Owner, std::optional<double>>) const { return add("number"); }
    std::string operator()(Member<Owner, std::string>) const { return "text"; }
    std::string operator()(Member<Owner, std::optional<std::string>>) const { return "text"; }
    std::string operator()(Member<Owner, std::filesystem::path>) const { return "path"; }
    std::string operator()(Member<Owner, std::vector<std::string>>) const {
      return "list of texts, or one text";
    }
    std::string operator()(Member<Owner, std::vector<int64_t>>) const {
      return fmt::format("list; each {}", add("whole number"));
    }
  } type{with, key.automatic.has_value()};
  if (key.kind == Kind::folder) return "path";
  return std::visit(type, key.access);
}

template <typename Owner>
std::string row(const Owner& defaults, const Key<Owner>& key) {
  const std::string standard =
      !key.absent.empty() ? key.absent : fmt::format("`{}`", value_text(defaults, key));
  return fmt::format("| `{}` | {} | {} | {} | {} | {} |\n", key.name, cell(standard),
                     cell(key.unit), cell(type_of(key)), cell(key.meaning), cell(key.source));
}

constexpr const char* kHead =
    "| key | default | unit | takes | meaning | source of the default |\n"
    "|---|---|---|---|---|---|\n";

constexpr const char* kIntroduction = R"(# Configuration

A run is described by a TOML file. The smallest useful one:

```toml
[model]
path = "models/FLUX.1-dev"        # a folder in diffusers' layout, or "tiny"
[subject]
name = "my_mascot"
trigger = "mytoken_mascot"
[dataset]
path = "photos/"
```

Everything else has a default that fits FLUX.1-dev. Each key can be given on the command line too:
`fluxlora train my.toml --set train.steps=500 --set lora.rank=32`. The value is TOML; a bare word is
text.

Relative paths are relative to the folder of the configuration; those of `--set` and `output.path`
are relative to the working directory. A run writes what it was run with, every default included, to
`config.toml` in its folder.

This page is made from the table of keys in `src/config/keys.cpp`; a test compares the two. After a
change there: `FLUXLORA_UPDATE_DOCS=1 build/config_reference_test`.
)";

}  // namespace

std::string to_toml(const train::RunOptions& options) {
  return write_tables(
      options, [&](const RunKey& key) { return value_text(options, key); },
      [](const FolderOptions& folder, const FolderKey& key) { return value_text(folder, key); });
}

std::string identity_toml(const train::RunOptions& options, const std::string& model_hash,
                          const std::string& dataset_hash) {
  const std::string content = fmt::format("[content]\nmodel = {}\ndataset = {}\n\n",
                                          toml_string(model_hash), toml_string(dataset_hash));
  return content + write_tables(
                       options,
                       [&](const RunKey& key) {
                         return key.says == Says::result ? value_text(options, key) : "";
                       },
                       [](const FolderOptions& folder, const FolderKey& key) {
                         return key.says == Says::result ? value_text(folder, key) : "";
                       });
}

std::optional<Difference> first_difference(const train::RunOptions& a, const train::RunOptions& b) {
  const auto differ = [](const std::string& key, const std::string& x, const std::string& y) {
    return x == y ? std::nullopt : std::optional(Difference{key, x, y});
  };
  for (const RunKey& key : run_keys()) {
    if (key.says == Says::place) continue;
    if (key.kind != Kind::folder) {
      if (auto found = differ(key.full(), value_text(a, key), value_text(b, key))) return found;
      continue;
    }
    const auto &left = a.dataset.folders, &right = b.dataset.folders;
    if (left.size() != right.size())
      return Difference{"dataset.folders", fmt::format("{} folders", left.size()),
                        fmt::format("{} folders", right.size())};
    for (size_t i = 0; i < left.size(); ++i)
      for (const FolderKey& inner : folder_keys()) {
        const std::string name = fmt::format("dataset.folders[{}].{}", i, inner.name);
        if (auto found = differ(name, value_text(left[i], inner), value_text(right[i], inner)))
          return found;
      }
  }
  return std::nullopt;
}

std::string reference_page() {
  std::string page = kIntroduction;
  const train::RunOptions defaults = default_options();
  for (const Table& table : tables()) {
    page += fmt::format("\n## [{}]\n\n{}\n\n{}", table.name, table.meaning, kHead);
    for (const RunKey& key : run_keys())
      if (key.table == table.name) page += row(defaults, key);
    if (table.name != "dataset") continue;
    page += fmt::format(
        "\n### [[dataset.folders]]\n\nSeveral folders, each with its own settings, in the place of "
        "`dataset.path`.\n\n{}",
        kHead);
    for (const FolderKey& key : folder_keys()) page += row(FolderOptions{}, key);
  }
  return page;
}

}  // namespace fluxlora::config
