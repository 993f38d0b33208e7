// SPDX-License-Identifier: Apache-2.0
#include "caption/trigger_check.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace fluxlora::caption {
namespace {

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || static_cast<unsigned char>(c) >= 128;
}

/// Runs of letters, lower case: "Zq_Mascot2" has "zq" and "mascot".
std::vector<std::string> parts_of(const std::string& word) {
  std::vector<std::string> parts;
  bool inside = false;
  for (const char c : word) {
    if (is_letter(c)) {
      if (!inside) parts.emplace_back();
      parts.back() += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    }
    inside = is_letter(c);
  }
  return parts;
}

bool is_known(const std::string& part, const Tokenizer& clip) {
  return part.size() > 1 && clip.id_of(part + "</w>") >= 0;
}

/// Spellings that people still read as the word, the nearest first: a letter doubled by a rare one
/// or replaced by it, vowels left out.
std::vector<std::string> spellings(const std::string& word) {
  constexpr std::string_view vowels = "aeiou";
  std::vector<std::string> all;
  for (const std::string_view rare : {"x", "q", "z", "xq"})
    for (size_t at = word.size(); at-- > 1;)
      if (vowels.find(word[at]) != std::string_view::npos)
        all.push_back(word.substr(0, at) + std::string(rare) + word.substr(at + 1));
  std::string bare;
  for (const char c : word)
    if (bare.empty() || vowels.find(c) == std::string_view::npos) bare += c;
  for (const char* end : {"xq", "zq", "qx"}) all.push_back(bare + end);
  return all;
}

/// Two to four pieces, and none of them but the shortest is a word by itself.
bool is_rare(const std::string& spelling, const Tokenizer& clip) {
  const std::vector<std::string> pieces = clip.pieces(spelling);
  return pieces.size() >= 2 && pieces.size() <= 4 &&
         std::none_of(pieces.begin(), pieces.end(), [&](const std::string& piece) {
           return piece.size() > 3 && clip.id_of(piece + "</w>") >= 0;
         });
}

std::string suggest(const std::vector<std::string>& parts, const Tokenizer& clip) {
  // Of several words the last one carries the meaning: "tom_cruise" becomes "cruxse".
  if (parts.empty()) return "";
  for (const std::string& spelling : spellings(parts.back()))
    if (is_rare(spelling, clip)) return spelling;
  return "";
}

}  // namespace

std::string TriggerReport::split() const {
  std::string line = fmt::format("trigger word \"{}\": {} for CLIP ({})", word, clip_pieces.size(),
                                 fmt::join(clip_pieces, " + "));
  if (!t5_pieces.empty())
    line += fmt::format(", {} for T5 ({})", t5_pieces.size(), fmt::join(t5_pieces, " + "));
  return line;
}

std::string TriggerReport::fault() const {
  if (means_something)
    return fmt::format(
        "trigger word \"{}\": CLIP's vocabulary has {} whole, so the model gives it a meaning of "
        "its own, which will mix with your subject",
        word, known_words.size() == 1 ? "this word" : "these words");
  if (many_pieces)
    return fmt::format("trigger word \"{}\": {} tokens take much of a prompt", word,
                       clip_pieces.size());
  return "";
}

std::string TriggerReport::remedy() const {
  if (!means_something) return "a shorter word is learned sooner";
  return suggestion.empty() ? "choose a word that nobody uses"
                            : fmt::format("try \"{}\"", suggestion);
}

std::string TriggerReport::advice() const {
  const std::string wrong = fault();
  return wrong.empty() ? "" : wrong + "; " + remedy();
}

TriggerReport check_trigger(const std::string& word, const Tokenizer& clip, const Tokenizer* t5) {
  TriggerReport report;
  report.word = word;
  report.clip_pieces = clip.pieces(word);
  if (t5) report.t5_pieces = t5->pieces(word);
  const std::vector<std::string> parts = parts_of(word);
  for (const std::string& part : parts)
    if (is_known(part, clip)) report.known_words.push_back(part);
  // One unknown part makes the whole a new word: "zq_mascot". Digits do not: "dog2" is a dog.
  report.means_something = !parts.empty() && report.known_words.size() == parts.size();
  report.many_pieces = report.clip_pieces.size() > kMostPieces;
  if (report.means_something) report.suggestion = suggest(parts, clip);
  return report;
}

TriggerReport check_trigger(const std::string& word) {
  static const std::unique_ptr<Tokenizer> clip = open_clip_tokenizer("builtin:clip-vocabulary");
  return check_trigger(word, *clip, nullptr);
}

}  // namespace fluxlora::caption
