// SPDX-License-Identifier: Apache-2.0
// The normaliser inside spiece.model: a table from characters to what replaces them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fluxlora {

/// A precompiled charsmap of sentencepiece (flux-facts 5.4): a little-endian size, a Darts
/// double-array trie of that many bytes, NUL-terminated replacements addressed by the trie's
/// values. It is applied as the fast tokenizers do: a grapheme cluster of less than 6 bytes that
/// begins with an entry is replaced whole by the shortest such entry's text; otherwise each
/// character is looked up alone. libsentencepiece takes the longest entry instead and does not know
/// clusters.
class Charsmap {
 public:
  /// Changes nothing.
  Charsmap() = default;
  /// False when `bytes` cannot be a charsmap. Damage inside it makes entries vanish, never a crash.
  bool load(std::string_view bytes);

  std::string normalize(std::string_view text) const;

 private:
  std::optional<std::string_view> find(std::string_view chunk) const;
  void append(std::string& out, std::string_view chunk) const;

  std::vector<uint32_t> trie_;
  std::string replacements_;
};

}  // namespace fluxlora
