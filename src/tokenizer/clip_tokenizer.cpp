// SPDX-License-Identifier: Apache-2.0
// CLIP's tokenizer (flux-facts 5.3): NFC, lowercase, words, byte pairs.
#include "base/error.h"
#include "base/file.h"
#include "tokenizer/byte_pairs.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace fluxlora {
namespace {

using Words = std::vector<std::string_view>;

// The contractions that are words of their own where they begin, and the two specials that the
// pattern lists. A special that is found in normalised text ("<|EndOfText|>" lowered) is one match
// of CLIP's pattern, which the byte-level pattern behind it then cuts into three words.
size_t match_literal(std::string_view rest, Words& words) {
  for (const std::string_view special : {"<|startoftext|>", "<|endoftext|>"}) {
    if (!rest.starts_with(special)) continue;
    words.push_back(rest.substr(0, 2));
    words.push_back(rest.substr(2, special.size() - 4));
    words.push_back(rest.substr(special.size() - 2, 2));
    return special.size();
  }
  for (const std::string_view suffix : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (!rest.starts_with(suffix)) continue;
    words.push_back(rest.substr(0, suffix.size()));
    return suffix.size();
  }
  return 0;
}

enum class Kind { letter, number, space, other };

Kind kind_of(char32_t code) {
  if (unicode::is_letter(code)) return Kind::letter;
  if (unicode::is_number(code)) return Kind::number;
  return unicode::is_white_space(code) ? Kind::space : Kind::other;
}

// <\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+
Words split_words(std::string_view text) {
  Words words;
  for (size_t at = 0; at < text.size();) {
    if (const size_t length = match_literal(text.substr(at), words); length > 0) {
      at += length;
      continue;
    }
    const size_t first = at;
    const Kind kind = kind_of(unicode::next(text, at));
    if (kind == Kind::space) continue;
    while (kind != Kind::number && at < text.size()) {
      size_t behind = at;
      if (kind_of(unicode::next(text, behind)) != kind) break;
      at = behind;
    }
    words.push_back(text.substr(first, at - first));
  }
  return words;
}

bool is_utf8(std::string_view text) {
  return line_that_is_not_utf8(text) == 0;
}

class ClipTokenizer final : public Tokenizer {
 public:
  ClipTokenizer(BytePairs pairs, const TokenizerConfig& config, const std::filesystem::path& folder)
      : pairs_(std::move(pairs)) {
    const std::string end = config.role("eos_token", "<|endoftext|>");
    std::vector<SpecialToken> specials = config.added;
    const auto id_in_role = [&](const std::string& role, const std::string& fallback) {
      SpecialToken token{config.role(role, fallback), -1, false};
      token.id = pairs_.id(token.text);
      for (const SpecialToken& added : config.added)
        if (added.text == token.text) token.id = added.id;
      if (token.id < 0)
        throw bad_input(folder.string(),
                        "its vocabulary lacks the " + role + " \"" + token.text + "\"",
                        "copy the model's tokenizer folder again");
      specials.push_back(token);  // after the added ones: of equal texts the first counts
      return token.id;
    };
    bos_id_ = id_in_role("bos_token", "<|startoftext|>");
    eos_id_ = id_in_role("eos_token", "<|endoftext|>");
    unknown_ = id_in_role("unk_token", end);
    pad_id_ = id_in_role("pad_token", end);
    vocab_size_ = pairs_.size();
    for (const SpecialToken& token : specials) vocab_size_ = std::max(vocab_size_, token.id + 1);
    set_specials(specials);
  }

  int32_t id_of(const std::string& token) const override { return pairs_.id(token); }

 protected:
  // White space need not become one space, as the reference does: the words do not see it.
  std::string normalize(std::string_view text) const override {
    return unicode::lower(unicode::nfc(text));
  }

  void append_ids(std::vector<int32_t>& ids, std::string_view normalized) const override {
    for (const std::string_view word : split_words(normalized))
      pairs_.append_ids(ids, word, unknown_);
  }

  std::string readable(int32_t id) const override {
    std::string token = pairs_.token(id);
    if (token.ends_with("</w>")) token.resize(token.size() - 4);
    const std::string bytes = pairs_.alphabet().bytes(token);
    if (is_utf8(bytes)) return bytes;
    std::string out;
    for (const char byte : bytes) {
      constexpr char digits[] = "0123456789ABCDEF";
      const auto value = static_cast<unsigned char>(byte);
      if (value < 128)
        out += byte;
      else
        out += std::string("<0x") + digits[value >> 4] + digits[value & 15] + ">";
    }
    return out;
  }

 private:
  BytePairs pairs_;
  int32_t unknown_ = 0;
};

constexpr size_t kClipMerges = 48894;

// CLIP's ids follow from its merges: the bytes, those that stand for themselves first, the bytes
// that end a word, what each merge gives, the two specials.
BytePairs::Vocabulary vocabulary_of(const BytePairs::Merges& merges) {
  const ByteAlphabet alphabet;
  std::vector<std::string> own, others;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string& symbol = alphabet.symbol(static_cast<unsigned char>(byte));
    size_t at = 0;
    (unicode::next(symbol, at) < 0x100 ? own : others).push_back(symbol);
  }
  own.insert(own.end(), others.begin(), others.end());
  BytePairs::Vocabulary vocabulary;
  const auto add = [&](const std::string& token) {
    vocabulary.emplace(token, static_cast<int32_t>(vocabulary.size()));
  };
  for (const std::string& symbol : own) add(symbol);
  for (const std::string& symbol : own) add(symbol + "</w>");
  for (const auto& [left, right] : merges) add(left + right);
  add("<|startoftext|>");
  add("<|endoftext|>");
  return vocabulary;
}

BytePairs open_pairs(const std::filesystem::path& folder) {
  const auto vocab = folder / "vocab.json", merges = folder / "merges.txt";
  const auto whole = folder / "tokenizer.json";
  if (!file_exists(vocab) && file_exists(whole)) {
    auto [vocabulary, list] = read_tokenizer_json(whole);
    return BytePairs(std::move(vocabulary), list, whole.string());
  }
  if (!file_exists(vocab) && file_exists(merges)) {
    const BytePairs::Merges list = read_merges(merges);
    if (list.size() == kClipMerges) return BytePairs(vocabulary_of(list), list, merges.string());
  }
  auto vocabulary = read_vocabulary(vocab);
  return BytePairs(std::move(vocabulary), read_merges(merges), merges.string());
}

}  // namespace

std::unique_ptr<Tokenizer> open_clip_tokenizer(const std::filesystem::path& folder) {
  return std::make_unique<ClipTokenizer>(open_pairs(folder), read_tokenizer_config(folder), folder);
}

}  // namespace fluxlora
