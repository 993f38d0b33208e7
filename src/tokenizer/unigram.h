// SPDX-License-Identifier: Apache-2.0
// The unigram language model of pieces (Kudo, ACL 2018): the cut of a word whose pieces have the
// greatest sum of log-probabilities.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace fluxlora {

/// libsentencepiece has the same search with sums in f32; the fast tokenizers add in f64. Nonsense
/// such as "fff" has cuts of equal probability ("ff" "f", "f" "ff"), between which the rounding
/// decides, and trigger words are nonsense: so the search is ours, in f64, with the reference's
/// order of trying.
class Unigram {
 public:
  struct Piece {
    std::string text;
    double score;  ///< log-probability
  };

  /// The id of a piece is its place; of equal pieces the last counts.
  Unigram(const std::vector<Piece>& pieces, int32_t unknown);

  /// Appends the ids of a word. Neighbouring characters that no piece covers become one `unknown`.
  void append_ids(std::vector<int32_t>& ids, std::string_view word) const;

  /// -1 if there is none.
  int32_t id(std::string_view piece) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::vector<double> scores_;
  size_t longest_ = 0;
  double unknown_score_ = 0;
  int32_t unknown_ = 0;
};

}  // namespace fluxlora
