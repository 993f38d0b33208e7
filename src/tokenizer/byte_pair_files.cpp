// SPDX-License-Identifier: Apache-2.0
// The files that hold a byte-pair vocabulary: vocab.json with merges.txt, or tokenizer.json.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "tokenizer/byte_pairs.h"

namespace fluxlora {
namespace {

using nlohmann::json;

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& what) {
  throw bad_input(path.string(), what, "copy the model's tokenizer again");
}

BytePairs::Vocabulary vocabulary_from(const json& object, const std::filesystem::path& path) {
  if (!object.is_object() || object.empty()) refuse(path, "holds no vocabulary");
  BytePairs::Vocabulary vocabulary;
  vocabulary.reserve(object.size());
  for (const auto& [token, id] : object.items()) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX)
      refuse(path, "gives the token \"" + token + "\" no usable id");
    vocabulary.emplace(token, id.get<int32_t>());
  }
  return vocabulary;
}

// "left right": exactly one space.
std::pair<std::string, std::string> merge_from(const std::string& line,
                                               const std::filesystem::path& path) {
  const size_t space = line.find(' ');
  if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos)
    refuse(path, "has \"" + line.substr(0, 40) + "\" where two symbols should be");
  return {line.substr(0, space), line.substr(space + 1)};
}

}  // namespace

BytePairs::Vocabulary read_vocabulary(const std::filesystem::path& vocab_json) {
  return vocabulary_from(json::parse(read_text(vocab_json), nullptr, false), vocab_json);
}

BytePairs::Merges read_merges(const std::filesystem::path& merges_txt) {
  const std::string text = read_text(merges_txt);
  BytePairs::Merges merges;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.starts_with("#version") || line.empty()) continue;
    merges.push_back(merge_from(line, merges_txt));
  }
  return merges;
}

std::pair<BytePairs::Vocabulary, BytePairs::Merges> read_tokenizer_json(
    const std::filesystem::path& path) {
  const json whole = json::parse(read_text(path), nullptr, false);
  if (!whole.is_object() || !whole.contains("model") || !whole["model"].is_object())
    refuse(path, "is not a tokenizer");
  const json& model = whole["model"];
  if (!model.contains("vocab") || !model.contains("merges") || !model["merges"].is_array())
    refuse(path, "is not a byte-pair tokenizer");
  BytePairs::Merges merges;
  for (const json& merge : model["merges"]) {
    if (merge.is_string())
      merges.push_back(merge_from(merge.get<std::string>(), path));
    else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
      merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    else
      refuse(path, "has a merge that is not a pair of symbols");
  }
  return {vocabulary_from(model["vocab"], path), std::move(merges)};
}

}  // namespace fluxlora
