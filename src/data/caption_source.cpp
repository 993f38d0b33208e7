// SPDX-License-Identifier: Apache-2.0
#include "data/caption_source.h"

#include <algorithm>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/philox.h"
#include "data/caption.h"

namespace fluxlora {

namespace fs = std::filesystem;

namespace {

using Json = nlohmann::json;

constexpr const char* kMetadata = "metadata.jsonl";
constexpr const char* kLine = "a line is {\"file_name\": \"a.png\", \"text\": \"a caption\"}";
constexpr std::string_view kSeparator = "|||";

std::string checked(const std::string& text, const std::string& where) {
  if (text.size() > kMaxCaptionBytes) {
    throw bad_input(where, "has a caption that is longer than 100,000 bytes, which is no caption",
                    "write one or a few sentences about the picture");
  }
  return collapse_spaces(text);
}

Json parsed(const std::string& text, const std::string& where, const char* hint) {
  try {
    Json json = Json::parse(text);
    if (json.is_object()) return json;
  } catch (const Json::exception&) {
    // Said below.
  }
  throw bad_input(where, "is not a JSON object", hint);
}

/// A text, or each of a list of texts; nothing for anything else.
std::vector<std::string> texts_of(const Json& value) {
  if (value.is_string()) return {value.get<std::string>()};
  std::vector<std::string> texts;
  if (!value.is_array()) return texts;
  for (const Json& item : value) {
    if (!item.is_string()) return {};
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

/// ai-toolkit's file; nothing when it says nothing about a caption.
std::optional<std::vector<std::string>> json_captions(const fs::path& path) {
  const Json json = parsed(read_text(path, Encoding::any), path.string(),
                           "write {\"caption\": \"...\"}, or remove the file");
  std::vector<std::string> captions;
  for (const char* key : {"caption", "caption_short"}) {
    if (!json.contains(key)) continue;
    if (!json[key].is_string())
      throw bad_input(path.string(), fmt::format("\"{}\" is not a text", key),
                      "write {\"caption\": \"...\"}, or remove the file");
    captions.push_back(checked(json[key].get<std::string>(), path.string()));
  }
  if (captions.empty()) return std::nullopt;
  return captions;
}

}  // namespace

CaptionSource::CaptionSource(const fs::path& folder) {
  const fs::path path = folder / kMetadata;
  if (!file_exists(path)) return;
  std::istringstream lines(read_text(path, Encoding::any));
  std::string line;
  for (int64_t number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    add_line(line, fmt::format("{}:{}", path.string(), number));
  }
}

void CaptionSource::add_line(const std::string& line, const std::string& where) {
  const Json json = parsed(line, where, kLine);
  const auto name = json.find("file_name");
  if (name == json.end() || !name->is_string())
    throw bad_input(where, "names no file in \"file_name\"", kLine);
  // Hugging Face's own scripts say "text"; data sets in the wild say the others too.
  for (const char* key : {"text", "caption", "prompt"}) {
    if (!json.contains(key)) continue;
    const std::vector<std::string> texts = texts_of(json[key]);
    if (texts.empty()) throw bad_input(where, fmt::format("\"{}\" is not a text", key), kLine);
    for (const std::string& text : texts)
      listed_[name->get<std::string>()].push_back(checked(text, where));
    return;
  }
  throw bad_input(where, "has no \"text\"", kLine);
}

std::vector<std::string> CaptionSource::listed() const {
  std::vector<std::string> names;
  for (const auto& [name, captions] : listed_) names.push_back(name);
  return names;
}

std::optional<std::vector<std::string>> CaptionSource::captions(const fs::path& picture,
                                                                bool by_line) const {
  if (const auto file = caption_file(picture)) {
    if (by_line) return read_caption_lines(*file);
    return std::vector{read_caption(*file)};
  }
  fs::path json = picture;
  if (file_exists(json.replace_extension(".json")))
    if (auto captions = json_captions(json)) return captions;
  const auto found = listed_.find(picture.filename().string());
  if (found == listed_.end()) return std::nullopt;
  return found->second;
}

// ---- forms --------------------------------------------------------------------------------------

namespace {

std::vector<std::string> split(const std::string& text, std::string_view separator) {
  std::vector<std::string> parts;
  size_t from = 0;
  for (size_t at; (at = text.find(separator, from)) != std::string::npos;
       from = at + separator.size())
    parts.push_back(text.substr(from, at - from));
  parts.push_back(text.substr(from));
  return parts;
}

/// What stands between commas, without spaces around it; empty ones left out.
std::vector<std::string> tags_of(const std::string& text) {
  std::vector<std::string> tags;
  for (const std::string& part : split(text, ",")) {
    std::string tag = collapse_spaces(part);
    if (!tag.empty()) tags.push_back(std::move(tag));
  }
  return tags;
}

/// Each {a|b} becomes one of its words, inner ones before outer ones: the first, or a drawn one.
/// Braces without a | are of another meaning and stay.
std::string choose(const std::string& text, Philox* random) {
  struct Open {
    size_t at;
    bool choice;
  };
  std::string result;
  std::vector<Open> open;
  for (const char c : text) {
    if (c == '{') open.push_back({result.size(), false});
    if (c == '|' && !open.empty()) open.back().choice = true;
    if (c != '}' || open.empty()) {
      result += c;
      continue;
    }
    const Open group = open.back();
    open.pop_back();
    if (!group.choice) {
      result += c;
      continue;
    }
    const std::vector<std::string> words = split(result.substr(group.at + 1), "|");
    result.resize(group.at);
    result += words[random ? random->below(static_cast<uint32_t>(words.size())) : 0];
  }
  return collapse_spaces(result);
}

/// A caption cut where its tags may move.
struct Parts {
  std::vector<std::string> front, middle, end;

  Parts(const std::string& caption, const FormOptions& options) {
    const std::vector<std::string> pieces = split(caption, kSeparator);
    middle = tags_of(pieces.size() > 1 ? pieces[1] : pieces[0]);
    if (pieces.size() > 1) front = tags_of(pieces[0]);
    for (size_t i = 2; i < pieces.size(); ++i)
      for (std::string& tag : tags_of(pieces[i])) end.push_back(std::move(tag));
    if (pieces.size() > 1 || middle.empty()) return;
    const bool trigger_first = contains_word(middle[0], options.trigger);
    const size_t kept = std::min(
        middle.size(), static_cast<size_t>(std::max<int64_t>(options.keep_tags, trigger_first)));
    const auto border = middle.begin() + static_cast<ptrdiff_t>(kept);
    front.assign(middle.begin(), border);
    middle.erase(middle.begin(), border);
  }

  std::string joined() const {
    std::vector<std::string> all = front;
    all.insert(all.end(), middle.begin(), middle.end());
    all.insert(all.end(), end.begin(), end.end());
    return fmt::format("{}", fmt::join(all, ", "));
  }
};

}  // namespace

std::vector<std::string> caption_forms(const std::string& caption, const FormOptions& options) {
  const bool separated = caption.find(kSeparator) != std::string::npos;
  const auto written = [&](const std::string& text) {
    return separated ? Parts(text, options).joined() : text;
  };
  std::vector<std::string> forms{written(options.choices ? choose(caption, nullptr) : caption)};
  if (!options.choices && !options.shuffle_tags) return forms;
  const uint64_t seed = std::stoull(Sha256().update(caption).hex().substr(0, 16), nullptr, 16);
  for (int64_t k = 1; k < options.forms; ++k) {
    Philox random(seed, Draw::caption, static_cast<uint32_t>(k));
    std::string form = options.choices ? choose(caption, &random) : caption;
    if (options.shuffle_tags) {
      Parts parts(form, options);
      random.shuffle(parts.middle);
      form = parts.joined();
    } else {
      form = written(form);
    }
    if (std::find(forms.begin(), forms.end(), form) == forms.end())
      forms.push_back(std::move(form));
  }
  return forms;
}

}  // namespace fluxlora
