// SPDX-License-Identifier: Apache-2.0
#include "config/import/translator.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "base/nearest.h"
#include "config/values.h"

namespace fluxlora::config {

namespace fs = std::filesystem;

namespace {

std::optional<double> as_number(const std::string& text) {
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || !std::isfinite(value)) return std::nullopt;
  return value;
}

bool says_none(const Foreign& option) {
  const std::string word = lower(option.text());
  return word == "none" || word == "null" || word == "~" || word.empty();
}

const RunKey& key_of(const std::string& full) {
  const auto keys = run_keys();
  const auto found =
      std::find_if(keys.begin(), keys.end(), [&](const RunKey& key) { return key.full() == full; });
  CHECK(found != keys.end(), full);
  return *found;
}

}  // namespace

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

double number_of(const Foreign& option) {
  if (const auto value = as_number(option.text())) return *value;
  throw bad_input(option.where,
                  fmt::format("{} is \"{}\", it should be a number", option.name, option.text()),
                  "correct it, or remove it");
}

bool is_on(const Foreign* option) {
  return option && !option->is_off();
}

std::string number_text(double value) {
  return fmt::format("{}", value);
}

Translator::Translator(const PeerTable& table, ForeignList options, fs::path folder)
    : table_(table), foreign_(std::move(options)), folder_(std::move(folder)) {
  for (const auto& [name, value] : table.defaults)
    defaults_.push_back({name, {value}, table.peer + "'s default"});
  result_.peer = table.peer;
  result_.options = default_options();
}

const Foreign* Translator::take(const std::string& name) {
  taken_.insert(name);
  const Foreign* option = find_option(foreign_, name);
  if (option && says_none(*option)) return nullptr;
  return option ? option : find_option(defaults_, name);
}

std::string Translator::text(const std::string& name, const std::string& otherwise) {
  const Foreign* option = take(name);
  return option ? option->text() : otherwise;
}

double Translator::number(const std::string& name, double otherwise) {
  const Foreign* option = take(name);
  return option ? number_of(*option) : otherwise;
}

bool Translator::flag(const std::string& name) const {
  return is_on(find_option(foreign_, name));
}

void Translator::set(const std::string& key, const std::string& value, const Foreign& from) {
  const RunKey& known = key_of(key);
  const auto number = as_number(value);
  const bool wants_number =
      std::holds_alternative<Member<train::RunOptions, int64_t>>(known.access) ||
      std::holds_alternative<Member<train::RunOptions, double>>(known.access);
  // "1." and ".5" are numbers to Python, not to TOML.
  const std::string text = number && wants_number ? number_text(*number) : value;
  assign_text(result_.options, known, text, {from.where + ": " + from.name, ""});
  result_.origin[key] = from.name;
}

fs::path Translator::resolved(const std::string& text) const {
  const fs::path here = fs::absolute(text).lexically_normal();
  const fs::path there = fs::absolute(folder_ / text).lexically_normal();
  std::error_code code;
  return !fs::exists(here, code) && fs::exists(there, code) ? there : here;
}

void Translator::set_path(const std::string& key, const Foreign& from) {
  set(key, resolved(from.text()).string(), from);
}

void Translator::list(const Foreign& option, Fate fate, const std::string& would) {
  if (!listed_.insert(option.name + "=" + option.text()).second) return;
  result_.listed.push_back({fate, option.name, option.text(), would});
}

void Translator::finish() {
  for (const auto& [option, key] : table_.direct) {
    const Foreign* from =
        result_.origin.contains(key) ? find_option(foreign_, option) : take(option);
    taken_.insert(option);
    if (!from || result_.origin.contains(key)) continue;
    const RunKey& known = key_of(key);
    if (known.kind == Kind::path)
      set_path(key, *from);
    else
      set(key, from->text(), *from);
  }
  list_rest(foreign_, "");
}

void Translator::list_rest(const ForeignList& options, const std::string& prefix) {
  for (const Foreign& option : options) {
    Foreign named = option;
    named.name = prefix + option.name;
    if (table_.is_mapped(named.name) || taken_.contains(named.name)) continue;
    if (const Note* note = table_.note(named.name)) {
      if (!option.is_off()) list(named, note->fate, note->would);
      continue;
    }
    std::vector<std::string> known;
    for (const auto& [name, key] : table_.direct) known.push_back(name);
    known.insert(known.end(), table_.translated.begin(), table_.translated.end());
    const auto near = nearest_name(named.name, known);
    list(named, Fate::lost,
         near ? fmt::format("do something that is not known; is {} meant?", *near)
              : "do something that is not known");
  }
}

}  // namespace fluxlora::config
