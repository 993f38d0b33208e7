// SPDX-License-Identifier: Apache-2.0
#include "config/import/foreign.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>
#include <yaml-cpp/yaml.h>

#include "base/file.h"

namespace fluxlora::config {

namespace fs = std::filesystem;

namespace {

constexpr size_t kLargestFile = 4'000'000;  // bytes
constexpr int kMostNodes = 20'000, kDeepest = 32;

std::string text_of_file(const fs::path& path) {
  if (map_file(path).bytes.size() > kLargestFile)
    throw bad_input(path.string(), "is too large for a configuration", "give the right file");
  return read_text(path);
}

std::string joined(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : prefix + "." + name;
}

// ---- TOML ---------------------------------------------------------------------------------------

std::string toml_scalar(const toml::node& node) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* whole = node.as_integer()) return fmt::format("{}", whole->get());
  if (const auto* number = node.as_floating_point()) return fmt::format("{}", number->get());
  if (const auto* flag = node.as_boolean()) return flag->get() ? "true" : "false";
  return "(a value of another kind)";
}

struct TomlReader {
  const fs::path& path;

  void read(const toml::table& table, const std::string& prefix, ForeignTree::Branch& out) const {
    for (const auto& [key, node] : table) {
      const std::string name = joined(prefix, std::string(key.str()));
      if (const auto* inner = node.as_table()) {
        read(*inner, name, out);
        continue;
      }
      Foreign option{name, {}, fmt::format("{}:{}", path.string(), key.source().begin.line)};
      const auto* list = node.as_array();
      if (!list) option.values.push_back(toml_scalar(node));
      bool tables = false;
      if (list)
        for (const toml::node& item : *list) {
          tables = tables || item.is_table();
          if (const auto* inner = item.as_table())
            read(*inner, "", out.branches.emplace_back(ForeignTree::Branch{name, {}, {}}));
          else
            option.values.push_back(toml_scalar(item));
        }
      if (!tables) out.options.push_back(std::move(option));
    }
  }
};

// ---- YAML ---------------------------------------------------------------------------------------

class YamlReader {
 public:
  explicit YamlReader(const fs::path& path) : path_(path) {}

  void read(const YAML::Node& map, const std::string& prefix, ForeignTree::Branch& out, int depth) {
    for (const auto& pair : map) {
      count(depth);
      const std::string name = joined(prefix, scalar(pair.first));
      const YAML::Node& node = pair.second;
      if (node.IsMap()) {
        read(node, name, out, depth + 1);
        continue;
      }
      Foreign option{name, {}, fmt::format("{}:{}", path_.string(), node.Mark().line + 1)};
      bool tables = false;
      if (node.IsSequence()) {
        for (const YAML::Node& item : node) {
          count(depth);
          tables = tables || item.IsMap();
          if (item.IsMap())
            read(item, "", out.branches.emplace_back(ForeignTree::Branch{name, {}, {}}), depth + 1);
          else
            option.values.push_back(scalar(item));
        }
      } else if (!node.IsNull()) {
        option.values.push_back(scalar(node));
      } else {
        continue;
      }
      if (!tables) out.options.push_back(std::move(option));
    }
  }

 private:
  static std::string scalar(const YAML::Node& node) {
    return node.IsScalar() ? node.Scalar() : node.IsNull() ? "" : "(a list)";
  }

  /// Anchors let a short file stand for an endless one.
  void count(int depth) {
    if (depth > kDeepest || ++nodes_ > kMostNodes)
      throw bad_input(path_.string(), "is too deep or too long for a configuration",
                      "give the configuration of a training");
  }

  const fs::path& path_;
  int nodes_ = 0;
};

// ---- shell --------------------------------------------------------------------------------------

/// Words of a script, command by command.
class ShellReader {
 public:
  explicit ShellReader(const fs::path& path) : where_(path.string()), text_(text_of_file(path)) {}

  std::vector<Command> read() {
    while (at_ < text_.size()) step();
    end_command();
    return std::move(commands_);
  }

 private:
  void step() {
    const char c = text_[at_];
    if (is_continued(c)) {
      at_ = text_.find('\n', at_);
      at_ += at_ < text_.size();
      end_word();
    } else if (c == '\n' || c == ';' || c == '&' || c == '|') {
      end_command();
      ++at_;
    } else if (std::isspace(static_cast<unsigned char>(c))) {
      end_word();
      ++at_;
    } else if (c == '#' && !in_word_) {
      at_ = std::min(text_.find('\n', at_), text_.size());
    } else if (c == '"' || c == '\'') {
      quoted(c);
    } else if (c == '\\' && at_ + 1 < text_.size() && std::ispunct(next())) {
      add(text_[at_ + 1]);
      at_ += 2;
    } else if (c == '$') {
      variable();
    } else {
      add(c);
      ++at_;
    }
  }

  unsigned char next() const { return static_cast<unsigned char>(text_[at_ + 1]); }

  /// \ of sh, ^ of cmd, ` of PowerShell at the end of a line.
  bool is_continued(char c) const {
    if (c != '\\' && c != '^' && c != '`') return false;
    size_t end = at_ + 1;
    while (end < text_.size() && (text_[end] == ' ' || text_[end] == '\r')) ++end;
    return end >= text_.size() || text_[end] == '\n';
  }

  void quoted(char quote) {
    in_word_ = true;
    for (++at_; at_ < text_.size() && text_[at_] != quote;) {
      if (quote == '"' && text_[at_] == '$') {
        variable();
      } else {
        if (quote == '"' && text_[at_] == '\\' && at_ + 1 < text_.size() &&
            (next() == '"' || next() == '\\'))
          ++at_;
        word_ += text_[at_++];
      }
    }
    if (at_ >= text_.size())
      throw bad_input(where_, fmt::format("a {} is not closed", quote), "close the quotation");
    ++at_;
  }

  void variable() {
    size_t begin = ++at_;
    const bool braces = begin < text_.size() && text_[begin] == '{';
    if (braces) ++begin;
    size_t end = begin;
    while (end < text_.size() &&
           (std::isalnum(static_cast<unsigned char>(text_[end])) || text_[end] == '_'))
      ++end;
    const std::string name = text_.substr(begin, end - begin);
    at_ = end + (braces && end < text_.size() ? 1 : 0);
    const Foreign* value = find_option(variables_, name);
    if (!value)
      throw bad_input(where_, fmt::format("${} is not set in the file", name),
                      fmt::format("write {}=\"...\" above, or the value itself", name));
    in_word_ = true;
    word_ += value->text();
  }

  void add(char c) {
    word_ += c;
    in_word_ = true;
  }

  void end_word() {
    if (in_word_) words_.push_back(word_);
    word_.clear();
    in_word_ = false;
  }

  void end_command() {
    end_word();
    for (const char* word : {"export", "set"})
      if (words_.size() > 1 && words_.front() == word) words_.erase(words_.begin());
    for (const std::string& word : words_) {
      const size_t equals = word.find('=');
      if (equals == std::string::npos || equals == 0 || word.starts_with('-')) break;
      variables_.push_back({word.substr(0, equals), {word.substr(equals + 1)}, where_});
    }
    if (!words_.empty()) commands_.push_back({std::move(words_), where_});
    words_.clear();
  }

  const std::string where_, text_;
  size_t at_ = 0;
  std::string word_;
  bool in_word_ = false;
  std::vector<std::string> words_;
  ForeignList variables_;
  std::vector<Command> commands_;
};

}  // namespace

std::string Foreign::text() const {
  return values.empty() ? "true" : fmt::format("{}", fmt::join(values, " "));
}

bool Foreign::is_off() const {
  std::string low = text();
  std::transform(low.begin(), low.end(), low.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return low.empty() || low == "false" || low == "none" || low == "null" || low == "no" ||
         low == "~" || low == "0" || low == "0.0";
}

const Foreign* find_option(const ForeignList& list, const std::string& name) {
  const auto found = std::find_if(list.rbegin(), list.rend(),
                                  [&](const Foreign& option) { return option.name == name; });
  return found == list.rend() ? nullptr : &*found;
}

ForeignList overlaid(const ForeignList& base, const ForeignList& more) {
  ForeignList list;
  for (const Foreign& option : base)
    if (!find_option(more, option.name)) list.push_back(option);
  list.insert(list.end(), more.begin(), more.end());
  return list;
}

ForeignTree read_foreign_toml(const fs::path& path) {
  const std::string text = text_of_file(path);
  ForeignTree tree;
  try {
    TomlReader{path}.read(toml::parse(std::string_view(text)), "", tree.root);
  } catch (const toml::parse_error& problem) {
    throw bad_input(fmt::format("{}:{}", path.string(), problem.source().begin.line),
                    std::string(problem.description()), "correct the TOML there");
  }
  return tree;
}

ForeignTree read_foreign_yaml(const fs::path& path) {
  const std::string text = text_of_file(path);
  ForeignTree tree;
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsMap())
      throw bad_input(path.string(), "holds no configuration",
                      "give an ai-toolkit file: job, config, process");
    YamlReader(path).read(root, "", tree.root, 0);
  } catch (const YAML::Exception& problem) {
    throw bad_input(fmt::format("{}:{}", path.string(), problem.mark.line + 1), problem.msg,
                    "correct the YAML there");
  }
  return tree;
}

std::vector<Command> read_commands(const fs::path& path) {
  return ShellReader(path).read();
}

ForeignList parse_arguments(const Command& command, size_t first) {
  ForeignList list;
  for (size_t i = first; i < command.words.size(); ++i) {
    const std::string& word = command.words[i];
    if (!word.starts_with("--")) {
      if (!list.empty()) list.back().values.push_back(word);
      continue;
    }
    const size_t equals = word.find('=');
    Foreign option{
        word.substr(2, equals == std::string::npos ? equals : equals - 2), {}, command.where};
    if (equals != std::string::npos) option.values.push_back(word.substr(equals + 1));
    list.push_back(std::move(option));
  }
  return list;
}

}  // namespace fluxlora::config
