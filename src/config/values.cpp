// SPDX-License-Identifier: Apache-2.0
#include "config/values.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"

namespace fluxlora::config {

namespace fs = std::filesystem;

namespace {

constexpr const char* kAuto = "auto";

/// "a, b or c".
std::string one_of(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i) text += i + 1 == words.size() ? " or " : ", ";
    text += words[i];
  }
  return text;
}

// ---- out of TOML --------------------------------------------------------------------------------

/// A value on its way in: what a message about it needs.
struct Context {
  const std::string& key;
  const Place& place;
  Kind kind;
};

std::string type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::string:
      return "text";
    case toml::node_type::integer:
      return "a whole number";
    case toml::node_type::floating_point:
      return "a decimal number";
    case toml::node_type::boolean:
      return "true or false";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::table:
      return "a table";
    default:
      return "a date or time";
  }
}

[[noreturn]] void wrong_type(const Context& at, const toml::node& node, const std::string& wanted,
                             const std::string& example) {
  const std::string name = at.key.substr(at.key.rfind('.') + 1);
  throw bad_input(at.place.where,
                  fmt::format("{} is {}, it should be {}", at.key, type_name(node), wanted),
                  fmt::format("write {} = {}", name, example));
}

std::string text_of(const Context& at, const toml::node& node) {
  const auto* text = node.as_string();
  if (!text) wrong_type(at, node, "text", "\"...\"");
  if (text->get().find('\0') != std::string::npos)
    throw bad_input(at.place.where, at.key + " holds a zero byte", "remove \\u0000 from it");
  return text->get();
}

fs::path normal_path(const std::string& text, const fs::path& base) {
  fs::path path = (base / text).lexically_normal();
  return path.empty() ? fs::path(".") : path;
}

void read(const Context& at, const toml::node& node, bool& out) {
  const auto* value = node.as_boolean();
  if (!value) wrong_type(at, node, "true or false", "true");
  out = value->get();
}

void read(const Context& at, const toml::node& node, int64_t& out) {
  const auto* value = node.as_integer();
  if (!value) wrong_type(at, node, "a whole number", "1");
  out = value->get();
}

void read(const Context& at, const toml::node& node, double& out) {
  if (const auto* whole = node.as_integer()) {
    out = static_cast<double>(whole->get());
  } else if (const auto* value = node.as_floating_point()) {
    out = value->get();
  } else {
    wrong_type(at, node, "a number", "1.0");
  }
}

void read(const Context& at, const toml::node& node, std::optional<double>& out) {
  read(at, node, out.emplace());
}

void read(const Context& at, const toml::node& node, std::string& out) {
  out = text_of(at, node);
  if (at.kind != Kind::model || out.empty() || out == "tiny") return;
  out = normal_path(out, at.place.base).string();
  if (out == "tiny") out = "./tiny";  // a folder of that name
}

void read(const Context& at, const toml::node& node, std::optional<std::string>& out) {
  out = text_of(at, node);
}

void read(const Context& at, const toml::node& node, fs::path& out) {
  const std::string text = text_of(at, node);
  out = text.empty() ? fs::path() : normal_path(text, at.kind == Kind::path ? at.place.base : "");
}

/// A list of values, or one value that stands for a list of one.
template <typename Value>
void read_list(const Context& at, const toml::node& node, std::vector<Value>& out) {
  out.clear();
  const auto* list = node.as_array();
  if (!list) {
    read(at, node, out.emplace_back());
    return;
  }
  for (const toml::node& item : *list) read(at, item, out.emplace_back());
}

void read(const Context& at, const toml::node& node, std::vector<std::string>& out) {
  if (!node.is_array() && !node.is_string()) wrong_type(at, node, "a list of texts", "[\"...\"]");
  read_list(at, node, out);
}

void read(const Context& at, const toml::node& node, std::vector<int64_t>& out) {
  if (!node.is_array() && !node.is_integer()) {
    wrong_type(at, node, "a list of whole numbers", "[512, 768]");
  }
  read_list(at, node, out);
}

// ---- what a key takes ---------------------------------------------------------------------------

/// A key without its owner's type.
struct Rules {
  const Limits& limits;
  const std::vector<std::string>& choices;
};

void check(const Context& at, const Rules& rules, double value, bool whole) {
  if (within(rules.limits, value)) return;
  const Limits& limits = rules.limits;
  const bool odd = limits.multiple > 1 && std::isfinite(value) &&
                   std::fmod(value, static_cast<double>(limits.multiple)) != 0;
  const std::string range = describe(limits);
  const std::string number = limits.multiple > 1 ? "" : (whole ? "a whole number " : "a number ");
  throw bad_input(
      at.place.where,
      fmt::format("{} is {}, {}", at.key, value,
                  odd ? fmt::format("not a multiple of {}", limits.multiple) : "out of range"),
      "give " + (range.empty() ? std::string("a finite number") : number + range));
}

void check(const Context&, const Rules&, bool&) {}
void check(const Context& at, const Rules& rules, int64_t& value) {
  check(at, rules, static_cast<double>(value), true);
}
void check(const Context& at, const Rules& rules, double& value) {
  check(at, rules, value, false);
}
void check(const Context& at, const Rules& rules, std::optional<double>& value) {
  check(at, rules, *value);
}
void check(const Context& at, const Rules& rules, std::vector<int64_t>& values) {
  for (int64_t& value : values) check(at, rules, value);
}
void check(const Context&, const Rules&, std::optional<std::string>&) {}
void check(const Context&, const Rules&, fs::path&) {}

void check(const Context& at, const Rules&, std::vector<std::string>& values) {
  if (at.key != "lora.targets" || !values.empty()) return;
  throw bad_input(at.place.where, at.key + " is empty, so there would be nothing to train",
                  "write targets = \"default\"");
}

bool blank(const std::string& text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string::npos;
}

void check_name(const Context& at, const std::string& name) {
  const bool odd = std::any_of(name.begin(), name.end(), [](char c) {
    return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
  if (!odd && !blank(name) && name.front() != '.' && name.size() <= 100) return;
  throw bad_input(at.place.where, fmt::format("{} cannot be the name of a file", at.key),
                  "give a short name of letters, digits, - and _, such as \"my_mascot\"");
}

void check(const Context& at, const Rules& rules, std::string& value) {
  if (at.kind == Kind::name) check_name(at, value);
  if (at.kind == Kind::word) {
    if (blank(value))
      throw bad_input(at.place.where, at.key + " is blank",
                      "give a rare word that shall call the subject, such as \"mytoken_mascot\"");
    const size_t first = value.find_first_not_of(" \t\r\n\f\v");
    value = value.substr(first, value.find_last_not_of(" \t\r\n\f\v") + 1 - first);
  }
  const std::vector<std::string>& words = rules.choices;
  if (words.empty() || std::find(words.begin(), words.end(), value) != words.end()) return;
  throw bad_input(at.place.where,
                  fmt::format("{} is {}, which it does not take", at.key, toml_string(value)),
                  "give " + one_of(rules.choices));
}

template <typename Owner>
void assign_any(Owner& owner, const Key<Owner>& key, const toml::node& node, const Place& place) {
  CHECK(key.kind != Kind::folder, "dataset.path has no place of its own");
  const std::string name = key.full();
  const Context at{name, place, key.kind};
  const Rules rules{key.limits, key.choices};
  if (key.automatic && node.value<std::string>() == kAuto) {
    std::get<Member<Owner, int64_t>>(key.access)(owner) = *key.automatic;
    return;
  }
  std::visit(
      [&](auto member) {
        auto& value = member(owner);
        read(at, node, value);
        check(at, rules, value);
      },
      key.access);
}

// ---- into TOML ----------------------------------------------------------------------------------

/// As toml++ writes it, but strings always in double quotes and on one line.
template <typename Value>
std::string toml_text(const Value& value) {
  using toml::format_flags;
  std::ostringstream out;
  const toml::value<Value> node(value);
  out << toml::toml_formatter(
      node, toml::toml_formatter::default_flags &
                ~(format_flags::allow_literal_strings | format_flags::allow_multi_line_strings));
  return out.str();
}

std::string absolute_text(const fs::path& path) {
  return toml_string(path.empty() ? "" : fs::absolute(path).lexically_normal().string());
}

std::string text(Kind, bool value) {
  return toml_text(value);
}
std::string text(Kind, int64_t value) {
  return toml_text(value);
}
/// The shortest digits that give the same double back; not all versions of toml++ find them.
std::string text(Kind, double value) {
  const std::string digits = fmt::format("{}", value);
  const bool whole = digits.find_first_not_of("-0123456789") == std::string::npos;
  return whole ? digits + ".0" : digits;
}
std::string text(Kind kind, const std::string& value) {
  return kind == Kind::model && value != "tiny" ? absolute_text(value) : toml_string(value);
}
std::string text(Kind kind, const std::optional<double>& value) {
  return value ? text(kind, *value) : "";
}
std::string text(Kind, const std::optional<std::string>& value) {
  return value ? toml_string(*value) : "";
}
std::string text(Kind, const fs::path& value) {
  return absolute_text(value);
}
template <typename Value>
std::string text(Kind kind, const std::vector<Value>& values) {
  std::vector<std::string> items;
  for (const Value& value : values) items.push_back(text(kind, value));
  return fmt::format("[{}]", fmt::join(items, ", "));
}

template <typename Owner>
std::string any_value_text(const Owner& owner, const Key<Owner>& key) {
  CHECK(key.kind != Kind::folder, "dataset.path has no place of its own");
  auto& readable = const_cast<Owner&>(owner);  // members give a reference to read and write
  if (key.automatic && std::get<Member<Owner, int64_t>>(key.access)(readable) == *key.automatic)
    return toml_string(kAuto);
  return std::visit([&](auto member) { return text(key.kind, member(readable)); }, key.access);
}

}  // namespace

void assign(train::RunOptions& owner, const RunKey& key, const toml::node& node,
            const Place& place) {
  assign_any(owner, key, node, place);
}

void assign(FolderOptions& owner, const FolderKey& key, const toml::node& node,
            const Place& place) {
  assign_any(owner, key, node, place);
}

toml::table text_as_toml(const std::string& text, bool wants_text) {
  toml::table table;
  try {
    table = toml::parse(std::string_view("value = " + text));
  } catch (const toml::parse_error&) {
    // A bare word.
  }
  const bool is_value = table.size() == 1 && table.contains("value");
  // A name or a word such as 2024 or true is text where text is wanted.
  if (!is_value || (wants_text && !table.get("value")->is_string())) {
    table.clear();
    table.insert("value", text);
  }
  return table;
}

void assign_text(train::RunOptions& owner, const RunKey& key, const std::string& text,
                 const Place& place) {
  const bool wants_text =
      std::holds_alternative<Member<train::RunOptions, std::string>>(key.access) ||
      std::holds_alternative<Member<train::RunOptions, fs::path>>(key.access);
  const toml::table table = text_as_toml(text, wants_text);
  assign(owner, key, *table.get("value"), place);
}

fs::path read_path(const std::string& key, const toml::node& node, const Place& place) {
  fs::path path;
  read({key, place, Kind::path}, node, path);
  return path;
}

std::string value_text(const train::RunOptions& owner, const RunKey& key) {
  return any_value_text(owner, key);
}

std::string value_text(const FolderOptions& owner, const FolderKey& key) {
  return any_value_text(owner, key);
}

std::string toml_string(const std::string& text) {
  return toml_text(text);
}

}  // namespace fluxlora::config
