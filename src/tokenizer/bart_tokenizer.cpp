// SPDX-License-Identifier: Apache-2.0
// BART's tokenizer, which is GPT-2's (Radford et al., 2019): words with the space before them, byte
// pairs, nothing normalised.
#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "tokenizer/byte_pairs.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace fluxlora {
namespace {

enum class Kind { letter, number, space, other };

Kind kind_at(std::string_view text, size_t& at) {
  const char32_t code = unicode::next(text, at);
  if (unicode::is_letter(code)) return Kind::letter;
  if (unicode::is_number(code)) return Kind::number;
  return unicode::is_white_space(code) ? Kind::space : Kind::other;
}

size_t contraction(std::string_view rest) {
  for (const std::string_view suffix : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
    if (rest.starts_with(suffix)) return suffix.size();
  return 0;
}

/// End of the white space that begins at text[at]: all of it at the end of the text, otherwise
/// without its last character, which belongs to the word behind or stands alone.
size_t space_end(std::string_view text, size_t at) {
  size_t last = at, end = at;
  while (end < text.size()) {
    size_t behind = end;
    if (kind_at(text, behind) != Kind::space) return last > at ? last : end;
    last = end;
    end = behind;
  }
  return end;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t word_end(std::string_view text, size_t first) {
  if (const size_t length = contraction(text.substr(first)); length > 0) return first + length;
  size_t at = first + (text[first] == ' ' && first + 1 < text.size() ? 1 : 0);
  const Kind kind = kind_at(text, at);
  if (kind == Kind::space) return space_end(text, first);
  while (at < text.size()) {
    size_t behind = at;
    if (kind_at(text, behind) != kind) break;
    at = behind;
  }
  return at;
}

class BartTokenizer final : public WritingTokenizer {
 public:
  BartTokenizer(BytePairs pairs, const TokenizerConfig& config, const std::filesystem::path& folder)
      : pairs_(std::move(pairs)), specials_(config.added) {
    const auto id_in_role = [&](const std::string& role, const std::string& fallback) {
      SpecialToken token{config.role(role, fallback), -1, false};
      token.id = pairs_.id(token.text);
      for (const SpecialToken& added : config.added)
        if (added.text == token.text) token.id = added.id;
      if (token.id < 0)
        throw bad_input(folder.string(),
                        "its vocabulary lacks the " + role + " \"" + token.text + "\"",
                        "copy the model's tokenizer again");
      specials_.push_back(token);
      return token.id;
    };
    bos_id_ = id_in_role("bos_token", "<s>");
    eos_id_ = id_in_role("eos_token", "</s>");
    unknown_ = id_in_role("unk_token", "<unk>");
    pad_id_ = id_in_role("pad_token", "<pad>");
    vocab_size_ = pairs_.size();
    for (SpecialToken& token : specials_) {
      token.normalized = false;
      vocab_size_ = std::max(vocab_size_, token.id + 1);
    }
    set_specials(specials_);
  }

  int32_t id_of(const std::string& token) const override { return pairs_.id(token); }

  std::string text(const std::vector<int32_t>& ids) const override {
    std::string out;
    for (const int32_t id : ids) {
      const auto is_id = [&](const SpecialToken& token) { return token.id == id; };
      if (std::none_of(specials_.begin(), specials_.end(), is_id))
        out += pairs_.alphabet().bytes(pairs_.token(id));
    }
    return unicode::repair(out);
  }

 protected:
  std::string normalize(std::string_view text) const override { return std::string(text); }

  void append_ids(std::vector<int32_t>& ids, std::string_view text) const override {
    for (size_t at = 0; at < text.size();) {
      const size_t end = word_end(text, at);
      pairs_.append_ids(ids, text.substr(at, end - at), unknown_);
      at = end;
    }
  }

  std::string readable(int32_t id) const override {
    return unicode::repair(pairs_.alphabet().bytes(pairs_.token(id)));
  }

 private:
  BytePairs pairs_;
  std::vector<SpecialToken> specials_;
  int32_t unknown_ = 0;
};

}  // namespace

std::unique_ptr<WritingTokenizer> open_bart_tokenizer(const std::filesystem::path& folder) {
  const auto vocab = folder / "vocab.json", merges = folder / "merges.txt";
  const auto whole = folder / "tokenizer.json";
  const auto open = [&](BytePairs::Vocabulary vocabulary, const BytePairs::Merges& list,
                        const std::filesystem::path& where) {
    return std::make_unique<BartTokenizer>(
        BytePairs(std::move(vocabulary), list, where.string(), ""), read_tokenizer_config(folder),
        folder);
  };
  if (file_exists(vocab)) return open(read_vocabulary(vocab), read_merges(merges), merges);
  auto [vocabulary, list] = read_tokenizer_json(whole);
  return open(std::move(vocabulary), list, whole);
}

}  // namespace fluxlora
