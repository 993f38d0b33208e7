// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/byte_pairs.h"

#include <algorithm>
#include <queue>

#include "base/error.h"
#include "tokenizer/unicode.h"

namespace fluxlora {
namespace {

// Room for the ids of a damaged file must not take the machine's memory.
constexpr int32_t kLargestId = 1 << 24;

}  // namespace

ByteAlphabet::ByteAlphabet() : symbols_(256) {
  char32_t other = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const char32_t code = itself ? static_cast<char32_t>(byte) : other++;
    unicode::append(symbols_[static_cast<size_t>(byte)], code);
    inverse_[code] = static_cast<unsigned char>(byte);
  }
}

std::string ByteAlphabet::bytes(std::string_view token) const {
  std::string out;
  for (size_t at = 0; at < token.size();) {
    const size_t first = at;
    const auto found = inverse_.find(unicode::next(token, at));
    if (found != inverse_.end())
      out.push_back(static_cast<char>(found->second));
    else
      out += token.substr(first, at - first);
  }
  return out;
}

BytePairs::BytePairs(Vocabulary vocabulary, const Merges& merges, const std::string& where,
                     std::string word_end)
    : word_end_(std::move(word_end)), vocabulary_(std::move(vocabulary)) {
  for (const auto& [token, id] : vocabulary_) {
    if (id < 0 || id >= kLargestId)
      throw bad_input(where, "gives the token \"" + token + "\" the id " + std::to_string(id),
                      "copy the model's tokenizer again");
    if (id >= size()) tokens_.resize(static_cast<size_t>(id) + 1);
    tokens_[static_cast<size_t>(id)] = token;
  }
  merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const int32_t a = id(left), b = id(right), whole = id(left + right);
    if (a < 0 || b < 0 || whole < 0)
      throw bad_input(where,
                      "merges \"" + left + "\" and \"" + right + "\", which the vocabulary lacks",
                      "vocabulary and merges must come from the same model");
    // As in the reference, the last of two equal merges counts.
    merges_[pair(a, b)] = {static_cast<int32_t>(rank), whole};
  }
}

int32_t BytePairs::id(const std::string& token) const {
  const auto found = vocabulary_.find(token);
  return found == vocabulary_.end() ? -1 : found->second;
}

const std::string& BytePairs::token(int32_t id) const {
  static const std::string nothing;
  return id >= 0 && id < size() ? tokens_[static_cast<size_t>(id)] : nothing;
}

void BytePairs::append_ids(std::vector<int32_t>& ids, std::string_view word,
                           int32_t unknown) const {
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  for (size_t i = 0; i < word.size(); ++i) {
    const std::string& symbol = alphabet_.symbol(static_cast<unsigned char>(word[i]));
    const int32_t found = id(i + 1 == word.size() ? symbol + word_end_ : symbol);
    symbols.push_back(found < 0 ? unknown : found);
  }
  merge(symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

// Always the pair of the lowest rank, of equal ones the leftmost. A heap over a linked list, so
// that a word of n symbols costs n log n.
void BytePairs::merge(std::vector<int32_t>& symbols) const {
  struct Candidate {
    int32_t rank, at, left, right, whole;
    bool operator<(const Candidate& o) const {  // std::priority_queue gives the largest
      return rank != o.rank ? rank > o.rank : at > o.at;
    }
  };
  const auto count = static_cast<int32_t>(symbols.size());
  std::vector<int32_t> before(symbols.size()), after(symbols.size());
  std::priority_queue<Candidate> queue;
  const auto offer = [&](int32_t at) {
    if (at < 0 || after[static_cast<size_t>(at)] >= count) return;
    const int32_t left = symbols[static_cast<size_t>(at)];
    const int32_t right = symbols[static_cast<size_t>(after[static_cast<size_t>(at)])];
    const auto found = merges_.find(pair(left, right));
    if (found != merges_.end()) queue.push({found->second.rank, at, left, right, found->second.id});
  };
  for (int32_t i = 0; i < count; ++i) {
    before[static_cast<size_t>(i)] = i - 1;
    after[static_cast<size_t>(i)] = i + 1;
  }
  for (int32_t i = 0; i + 1 < count; ++i) offer(i);

  constexpr int32_t kGone = -1;
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    const auto at = static_cast<size_t>(best.at);
    const int32_t right = after[at];
    if (symbols[at] != best.left || right >= count) continue;  // merged in the meantime
    if (symbols[static_cast<size_t>(right)] != best.right) continue;
    symbols[at] = best.whole;
    symbols[static_cast<size_t>(right)] = kGone;
    after[at] = after[static_cast<size_t>(right)];
    if (after[at] < count) before[static_cast<size_t>(after[at])] = best.at;
    offer(before[at]);
    offer(best.at);
  }
  symbols.erase(std::remove(symbols.begin(), symbols.end(), kGone), symbols.end());
}

}  // namespace fluxlora
