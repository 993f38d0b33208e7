// SPDX-License-Identifier: Apache-2.0
// Is the trigger word a good one? It should mean nothing to the model before training, and take a
// few tokens only.
#pragma once

#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace fluxlora::caption {

/// What the tokenizers of the model make of a trigger word.
struct TriggerReport {
  std::string word;
  std::vector<std::string> clip_pieces;
  std::vector<std::string> t5_pieces;  ///< empty where there was no tokenizer of T5
  /// Its parts, in their order, that CLIP's vocabulary has as a whole word: "mascot" of
  /// "zq_mascot". Numbers and single letters are not among them.
  std::vector<std::string> known_words;
  bool means_something = false;  ///< nothing but known words
  bool many_pieces = false;      ///< more than kMostPieces for CLIP
  std::string suggestion;  ///< another spelling; empty where there is no need or none was found

  /// How the word splits, in one line.
  std::string split() const;
  /// What is wrong with it; empty when nothing is.
  std::string fault() const;
  /// What to do about that.
  std::string remedy() const;
  /// Both in one line; empty when nothing is wrong.
  std::string advice() const;
};

/// Pieces of CLIP beyond which a trigger takes much of a prompt and is learned slowly.
inline constexpr size_t kMostPieces = 6;

/// A byte-pair vocabulary has as one token what was frequent in the texts that it was made from:
/// CLIP's 34,000 whole words are common words, names, brands and places. Such a trigger has a
/// meaning already, which training must undo and which shows through where the LoRA is weak.
/// `t5` may be null. Throws Error (bad_input) when the word is not UTF-8 or of more than 32,768
/// bytes.
TriggerReport check_trigger(const std::string& word, const Tokenizer& clip, const Tokenizer* t5);

/// The same by CLIP's vocabulary alone, which is built into the program: for where no model is at
/// hand. All FLUX.1 models have it.
TriggerReport check_trigger(const std::string& word);

}  // namespace fluxlora::caption
