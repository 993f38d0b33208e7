// SPDX-License-Identifier: Apache-2.0
// T5's tokenizer (flux-facts 5.4): the charsmap, words, unigram pieces.
#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include "base/error.h"
#include "base/file.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/spiece_model.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unigram.h"

namespace fluxlora {
namespace {

const std::string kWordMark = "\u2581";  // ▁

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& what) {
  throw bad_input(path.string(), what, "copy the model's spiece.model again");
}

/// What spiece.model holds, and the sentinels behind it.
struct Spiece {
  std::vector<Unigram::Piece> pieces;
  std::vector<SpecialToken> specials;
  Charsmap charsmap;
  int32_t unknown = 2;
};

Spiece read_spiece(const std::filesystem::path& file, int64_t extra_ids) {
  const FileView view = map_file(file);
  const auto charsmap = find_charsmap(view.text());
  sentencepiece::SentencePieceProcessor model;
  const absl::string_view bytes(view.text().data(), view.text().size());
  if (!charsmap || !model.LoadFromSerializedProto(bytes).ok())
    refuse(file, "is not a sentencepiece model");
  Spiece out;
  if (!charsmap->empty() && !out.charsmap.load(*charsmap)) refuse(file, "has a damaged normaliser");
  out.unknown = model.unk_id();
  for (int32_t id = 0; id < model.GetPieceSize(); ++id) {
    out.pieces.push_back({model.IdToPiece(id), model.GetScore(id)});
    if (line_that_is_not_utf8(out.pieces.back().text) != 0)
      refuse(file, fmt::format("piece {} is not UTF-8", id));
    if (model.IsControl(id) || model.IsUnknown(id))
      out.specials.push_back({model.IdToPiece(id), id, false});
  }
  // <extra_id_0> has the highest id. In the reference the sentinels and control pieces are pieces
  // of score 0 too, so that full-width letters which normalise to "<pad>" give its id.
  for (int64_t k = extra_ids - 1; k >= 0; --k) {
    const auto id = static_cast<int32_t>(out.pieces.size());
    out.pieces.push_back({fmt::format("<extra_id_{}>", k), 0});
    out.specials.push_back({out.pieces.back().text, id, false});
  }
  return out;
}

class T5Tokenizer final : public Tokenizer {
 public:
  T5Tokenizer(const std::filesystem::path& file, const TokenizerConfig& config, Spiece spiece)
      : unigram_(spiece.pieces, spiece.unknown), charsmap_(std::move(spiece.charsmap)) {
    for (Unigram::Piece& piece : spiece.pieces) texts_.push_back(std::move(piece.text));
    pad_id_ = id_in_role(file, config, "pad_token", "<pad>");
    eos_id_ = id_in_role(file, config, "eos_token", "</s>");
    std::vector<SpecialToken> specials = config.added;
    specials.insert(specials.end(), spiece.specials.begin(), spiece.specials.end());
    vocab_size_ = static_cast<int32_t>(texts_.size());
    for (const SpecialToken& token : specials) vocab_size_ = std::max(vocab_size_, token.id + 1);
    set_specials(specials);
  }

  int32_t id_of(const std::string& token) const override { return unigram_.id(token); }

 protected:
  std::string normalize(std::string_view text) const override { return charsmap_.normalize(text); }

  // Words between white space, each with a word mark in front unless it has one.
  void append_ids(std::vector<int32_t>& ids, std::string_view normalized) const override {
    std::string word;
    const auto flush = [&] {
      if (!word.empty()) append_word(ids, word.starts_with(kWordMark) ? word : kWordMark + word);
      word.clear();
    };
    for (size_t at = 0; at < normalized.size();) {
      const size_t first = at;
      if (unicode::is_white_space(unicode::next(normalized, at)))
        flush();
      else
        word += normalized.substr(first, at - first);
    }
    flush();
  }

  std::string readable(int32_t id) const override {
    const auto place = static_cast<size_t>(id);
    return place < texts_.size() ? texts_[place] : "?";
  }

 private:
  int32_t id_in_role(const std::filesystem::path& file, const TokenizerConfig& config,
                     const std::string& role, const std::string& fallback) const {
    const std::string token = config.role(role, fallback);
    const int32_t id = id_of(token);
    if (id < 0) refuse(file, "lacks the " + role + " \"" + token + "\"");
    return id;
  }

  // A mark inside a word begins a new one.
  void append_word(std::vector<int32_t>& ids, std::string_view word) const {
    while (!word.empty()) {
      const size_t end = std::min(word.find(kWordMark, 1), word.size());
      unigram_.append_ids(ids, word.substr(0, end));
      word.remove_prefix(end);
    }
  }

  Unigram unigram_;
  Charsmap charsmap_;
  std::vector<std::string> texts_;
};

}  // namespace

std::unique_ptr<Tokenizer> open_t5_tokenizer(const std::filesystem::path& folder) {
  const TokenizerConfig config = read_tokenizer_config(folder);
  const auto file = folder / "spiece.model";
  return std::make_unique<T5Tokenizer>(file, config, read_spiece(file, config.extra_ids));
}

}  // namespace fluxlora
