// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/charsmap.h"

#include "base/file.h"
#include "tokenizer/unicode.h"

namespace fluxlora {
namespace {

uint32_t little_endian(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i)
    value |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
  return value;
}

// The fields of a unit of a Darts-clone double array: bits 0-7 label (with bit 31), 8 "has a leaf",
// 9 "offset counts in 256", 10-30 offset; a leaf's bits 0-30 are its value.
uint32_t label(uint32_t unit) {
  return unit & 0x800000FFu;
}
bool has_leaf(uint32_t unit) {
  return (unit >> 8 & 1) != 0;
}
uint32_t value(uint32_t unit) {
  return unit & 0x7FFFFFFFu;
}
uint32_t offset(uint32_t unit) {
  return unit >> 10 << ((unit & 0x200u) >> 6);
}

}  // namespace

bool Charsmap::load(std::string_view bytes) {
  if (bytes.size() < 4) return false;
  const size_t trie_bytes = little_endian(bytes, 0);
  if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > bytes.size() - 4) return false;
  trie_.resize(trie_bytes / 4);
  for (size_t i = 0; i < trie_.size(); ++i) trie_[i] = little_endian(bytes, 4 + 4 * i);
  replacements_ = bytes.substr(4 + trie_bytes);
  return line_that_is_not_utf8(replacements_) == 0;
}

// The text of the shortest entry that `chunk` begins with.
std::optional<std::string_view> Charsmap::find(std::string_view chunk) const {
  if (trie_.empty()) return std::nullopt;
  size_t node = offset(trie_[0]);
  for (const char c : chunk) {
    const auto byte = static_cast<unsigned char>(c);
    node ^= byte;
    if (byte == 0 || node >= trie_.size() || label(trie_[node]) != byte) return std::nullopt;
    const uint32_t unit = trie_[node];
    node ^= offset(unit);
    if (!has_leaf(unit)) continue;
    const size_t first = node < trie_.size() ? value(trie_[node]) : replacements_.size();
    if (first >= replacements_.size()) return std::nullopt;
    const size_t end = std::min(replacements_.find('\0', first), replacements_.size());
    return std::string_view(replacements_).substr(first, end - first);
  }
  return std::nullopt;
}

void Charsmap::append(std::string& out, std::string_view cluster) const {
  constexpr size_t kLongestCluster = 5;  // bytes; the reference's own bound
  if (cluster.size() <= kLongestCluster)
    if (const auto replacement = find(cluster)) {
      out += *replacement;
      return;
    }
  for (size_t at = 0; at < cluster.size();) {
    const size_t first = at;
    unicode::next(cluster, at);
    const std::string_view character = cluster.substr(first, at - first);
    out += find(character).value_or(character);
  }
}

std::string Charsmap::normalize(std::string_view text) const {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t end = unicode::grapheme_end(text, at);
    append(out, text.substr(at, end - at));
    at = end;
  }
  return out;
}

}  // namespace fluxlora
