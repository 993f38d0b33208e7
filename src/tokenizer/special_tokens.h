// SPDX-License-Identifier: Apache-2.0
// Special tokens: strings that stand for one id wherever they occur in a text, and the two JSON
// files that say which.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fluxlora {

struct SpecialToken {
  std::string text;
  int32_t id = -1;          ///< -1: whatever id the vocabulary gives it
  bool normalized = false;  ///< looked for in the normalised text instead of the raw one
};

/// What tokenizer_config.json, special_tokens_map.json and tokenizer.json say beside the
/// vocabulary.
struct TokenizerConfig {
  std::map<std::string, std::string> roles;  ///< "eos_token" -> "</s>"
  std::vector<SpecialToken> added;  ///< with ids, from added_tokens_decoder or added_tokens
  int64_t extra_ids = 100;          ///< T5's sentinels

  /// The token in this role, or `fallback`.
  std::string role(const std::string& name, const std::string& fallback) const;
};

/// Reads those of the files that exist, in the order of preference of transformers 5. Throws Error
/// (bad_input) that names the file.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder);

/// A piece of text: a special's id, or -1 and ordinary text.
struct Segment {
  std::string_view text;
  int32_t id = -1;
};

/// Finds specials in a text: the leftmost first, the longest of those that begin together.
class SpecialTokens {
 public:
  void add(std::string text, int32_t id);
  /// The whole text in order; no empty segments.
  std::vector<Segment> split(std::string_view text) const;

 private:
  std::vector<std::pair<std::string, int32_t>> tokens_;  // longest first
};

}  // namespace fluxlora
