// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/special_tokens.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace fluxlora {
namespace {

using nlohmann::json;

json read_object(const std::filesystem::path& path) {
  json value = json::parse(read_text(path), nullptr, false);
  if (!value.is_object())
    throw bad_input(path.string(), "is not a JSON object", "copy the model's file again");
  return value;
}

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& what) {
  throw bad_input(path.string(), what, "copy the model's file again");
}

SpecialToken added_token(const std::filesystem::path& path, const json& token, int64_t id) {
  if (!token.is_object() || !token.contains("content") || !token["content"].is_string())
    refuse(path, "has an added token without \"content\"");
  if (id < 0 || id > INT32_MAX) refuse(path, "has an added token without a usable id");
  // lstrip and rstrip are no matter: both tokenizers drop white space anyway.
  if (token.value("single_word", json(false)) == json(true))
    refuse(path, "has an added token with single_word, which is not supported");
  const bool normalized = token.value("normalized", json(false)) == json(true);
  return {token["content"].get<std::string>(), static_cast<int32_t>(id), normalized};
}

// "added_tokens_decoder": {"49406": {"content": ...}, ...}.
void read_added_decoder(TokenizerConfig& config, const std::filesystem::path& path,
                        const json& decoder) {
  if (!decoder.is_object()) refuse(path, "has an added_tokens_decoder that is not an object");
  for (const auto& [key, token] : decoder.items()) {
    if (key.empty() || key.size() > 9 || key.find_first_not_of("0123456789") != std::string::npos)
      refuse(path, "has an added token with the id \"" + key + "\"");
    config.added.push_back(added_token(path, token, std::stoll(key)));
  }
}

// "bos_token": "<s>" or {"content": "<s>", ...}.
void read_roles(TokenizerConfig& config, const json& object) {
  for (const char* role : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
    const auto found = object.find(role);
    if (found == object.end()) continue;
    if (found->is_string()) config.roles[role] = found->get<std::string>();
    if (found->is_object() && found->contains("content") && (*found)["content"].is_string())
      config.roles[role] = (*found)["content"].get<std::string>();
  }
}

}  // namespace

std::string TokenizerConfig::role(const std::string& name, const std::string& fallback) const {
  const auto found = roles.find(name);
  return found == roles.end() ? fallback : found->second;
}

TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder) {
  TokenizerConfig config;
  bool has_decoder = false;
  if (const auto path = folder / "tokenizer_config.json"; file_exists(path)) {
    const json object = read_object(path);
    read_roles(config, object);
    if (const auto extra = object.find("extra_ids"); extra != object.end()) {
      if (!extra->is_number_integer() || *extra < 0 || *extra > 100000)
        refuse(path, "has an extra_ids that is not a number of tokens");
      config.extra_ids = extra->get<int64_t>();
    }
    has_decoder = object.contains("added_tokens_decoder");
    if (has_decoder) read_added_decoder(config, path, object["added_tokens_decoder"]);
  }
  if (has_decoder) return config;  // it alone counts then
  if (const auto path = folder / "special_tokens_map.json"; file_exists(path))
    read_roles(config, read_object(path));
  if (const auto path = folder / "tokenizer.json"; file_exists(path)) {
    const json object = read_object(path);
    if (const auto list = object.find("added_tokens"); list != object.end() && list->is_array())
      for (const json& token : *list) {
        if (!token.is_object()) refuse(path, "has an added token that is not an object");
        const json id = token.value("id", json(-1));
        config.added.push_back(
            added_token(path, token, id.is_number_integer() ? id.get<int64_t>() : -1));
      }
  }
  return config;
}

void SpecialTokens::add(std::string text, int32_t id) {
  if (text.empty()) return;
  for (const auto& token : tokens_)
    if (token.first == text) return;
  tokens_.emplace_back(std::move(text), id);
  std::stable_sort(tokens_.begin(), tokens_.end(),
                   [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
}

std::vector<Segment> SpecialTokens::split(std::string_view text) const {
  std::vector<Segment> out;
  size_t plain = 0, at = 0;
  while (at < text.size()) {
    const auto hit = std::find_if(tokens_.begin(), tokens_.end(), [&](const auto& token) {
      return text.substr(at, token.first.size()) == token.first;
    });
    if (hit == tokens_.end()) {
      ++at;
      continue;
    }
    if (at > plain) out.push_back({text.substr(plain, at - plain), -1});
    out.push_back({text.substr(at, hit->first.size()), hit->second});
    at += hit->first.size();
    plain = at;
  }
  if (text.size() > plain) out.push_back({text.substr(plain), -1});
  return out;
}

}  // namespace fluxlora
