// SPDX-License-Identifier: Apache-2.0
// Byte-level byte-pair encoding (Sennrich et al., ACL 2016; bytes as symbols: Radford et al.,
// 2019).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace fluxlora {

/// Each byte as a printable character: 33-126, 161-172 and 174-255 stand for themselves, the others
/// in order for U+0100 and on.
class ByteAlphabet {
 public:
  ByteAlphabet();
  const std::string& symbol(unsigned char byte) const { return symbols_[byte]; }
  /// A token back to its bytes; characters that stand for no byte stay as they are.
  std::string bytes(std::string_view token) const;

 private:
  std::vector<std::string> symbols_;
  std::unordered_map<char32_t, unsigned char> inverse_;
};

class BytePairs {
 public:
  using Vocabulary = std::unordered_map<std::string, int32_t>;
  using Merges = std::vector<std::pair<std::string, std::string>>;

  /// `where` names the file of the merges in Errors (bad_input): a merge whose parts or result are
  /// not in the vocabulary. `word_end` marks the last symbol of a word: CLIP's "</w>", nothing for
  /// GPT-2 and BART.
  BytePairs(Vocabulary vocabulary, const Merges& merges, const std::string& where,
            std::string word_end = "</w>");

  /// Appends the ids of one word: its bytes as symbols, the last with the mark, merged by rank. A
  /// symbol that is not in the vocabulary becomes `unknown`.
  void append_ids(std::vector<int32_t>& ids, std::string_view word, int32_t unknown) const;

  /// -1 if there is none.
  int32_t id(const std::string& token) const;
  /// Empty for an id that no token has.
  const std::string& token(int32_t id) const;
  /// The largest id + 1.
  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }
  const ByteAlphabet& alphabet() const { return alphabet_; }

 private:
  struct Merge {
    int32_t rank, id;
  };
  static uint64_t pair(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }
  void merge(std::vector<int32_t>& symbols) const;

  ByteAlphabet alphabet_;
  std::string word_end_;
  Vocabulary vocabulary_;
  std::vector<std::string> tokens_;
  std::unordered_map<uint64_t, Merge> merges_;
};

/// vocab.json, merges.txt and tokenizer.json. Throw Error (bad_input) that names the file.
BytePairs::Vocabulary read_vocabulary(const std::filesystem::path& vocab_json);
BytePairs::Merges read_merges(const std::filesystem::path& merges_txt);
std::pair<BytePairs::Vocabulary, BytePairs::Merges> read_tokenizer_json(
    const std::filesystem::path& path);

}  // namespace fluxlora
