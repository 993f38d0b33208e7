// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/unigram.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace fluxlora {

Unigram::Unigram(const std::vector<Piece>& pieces, int32_t unknown) : unknown_(unknown) {
  constexpr double kPenalty = 10;  // of a character without a piece, below the least likely piece
  double least = 0;
  for (const Piece& piece : pieces) {
    ids_[piece.text] = static_cast<int32_t>(scores_.size());
    scores_.push_back(piece.score);
    longest_ = std::max(longest_, piece.text.size());
    least = std::min(least, piece.score);
  }
  unknown_score_ = least - kPenalty;
}

int32_t Unigram::id(std::string_view piece) const {
  const auto found = ids_.find(piece);
  return found == ids_.end() ? -1 : found->second;
}

void Unigram::append_ids(std::vector<int32_t>& ids, std::string_view word) const {
  struct Best {  // of all cuts that end here
    double score = 0;
    size_t start = SIZE_MAX;
    int32_t id = -1;
  };
  std::vector<Best> best(word.size() + 1);
  const auto offer = [&](size_t start, size_t end, int32_t id, double score) {
    const double sum = best[start].score + score;
    if (best[end].start == SIZE_MAX || sum > best[end].score) best[end] = {sum, start, id};
  };
  for (size_t start = 0; start < word.size();) {
    size_t after = start;  // the first character's end
    unicode::next(word, after);
    bool covered = false;
    for (size_t end = after; end <= word.size() && end - start <= longest_;) {
      if (const int32_t piece = id(word.substr(start, end - start)); piece >= 0) {
        offer(start, end, piece, scores_[static_cast<size_t>(piece)]);
        covered |= end == after;
      }
      if (end == word.size()) break;
      unicode::next(word, end);
    }
    if (!covered) offer(start, after, unknown_, unknown_score_);
    start = after;
  }
  std::vector<int32_t> reversed;
  for (size_t end = word.size(); end > 0; end = best[end].start) {
    const int32_t piece = best[end].id;
    if (piece == unknown_ && !reversed.empty() && reversed.back() == unknown_) continue;
    reversed.push_back(piece);
  }
  ids.insert(ids.end(), reversed.rbegin(), reversed.rend());
}

}  // namespace fluxlora
