// SPDX-License-Identifier: Apache-2.0
// Words to ids. Both tokenizers give the ids of transformers 5, whose tokenizers are the "fast"
// ones (flux-facts 5.3, 5.4). The "slow" ones of transformers 4 differ, and we do not follow them:
//   CLIP  slow runs ftfy first (curly quotes become straight, HTML entities are decoded, full-width
//         letters are folded) or, without ftfy, BERT's clean-up; it lowers a final sigma to the
//         final form. Fast does NFC and the lowercase of each character alone.
//   T5    slow is plain sentencepiece. Fast normalises by grapheme clusters, which differs for
//   stacked
//         combining marks, puts a word mark before each word and never before one that has it, and
//         sees pieces such as "<pad>" in normalised text too.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/special_tokens.h"

namespace fluxlora {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  /// Ids of the text alone: no begin or end id, not truncated. Throws Error (bad_input) when the
  /// text is not UTF-8 or longer than 32,768 bytes.
  std::vector<int32_t> ids(std::string_view text) const;

  /// [begin] ids [end], the ids cut so that the end id stays, then padded to `length` (at least as
  /// many places as begin and end take).
  std::vector<int32_t> encode(std::string_view text, int length) const;

  /// How many of `length` places the text would take uncut, begin and end included.
  int64_t places(std::string_view text) const;

  /// The text cut into its tokens, readable: shows how a trigger word splits. A byte that is no
  /// whole character alone is written "<0xE6>"; T5's word mark is "▁".
  std::vector<std::string> pieces(std::string_view text) const;

  /// Id of a token in the vocabulary's own spelling, -1 if there is none.
  virtual int32_t id_of(const std::string& token) const = 0;

  int32_t pad_id() const { return pad_id_; }
  int32_t eos_id() const { return eos_id_; }
  /// Every id is below this: the embedding table must have as many rows.
  int32_t vocab_size() const { return vocab_size_; }

 protected:
  Tokenizer() = default;

  /// What happens to text between specials before it is looked up.
  virtual std::string normalize(std::string_view text) const = 0;
  /// Appends the ids of normalised text without specials.
  virtual void append_ids(std::vector<int32_t>& ids, std::string_view normalized) const = 0;
  /// One token for people.
  virtual std::string readable(int32_t id) const = 0;

  /// Sorts the specials by whether they are looked for before or after normalize().
  void set_specials(const std::vector<SpecialToken>& specials);

  int32_t bos_id_ = -1;  ///< -1: none
  int32_t eos_id_ = 0, pad_id_ = 0, vocab_size_ = 0;

 private:
  SpecialTokens raw_, normalized_;
};

/// A tokenizer whose ids can be read back.
class WritingTokenizer : public Tokenizer {
 public:
  /// The text of ids, specials left out. Bytes that are no whole character become U+FFFD.
  virtual std::string text(const std::vector<int32_t>& ids) const = 0;
};

/// BART's (GPT-2's) byte-level BPE from vocab.json and merges.txt, or from tokenizer.json, with
/// tokenizer_config.json and special_tokens_map.json where they exist. Throws Error (bad_input)
/// that names the file.
std::unique_ptr<WritingTokenizer> open_bart_tokenizer(const std::filesystem::path& folder);

/// CLIP's byte-level BPE from vocab.json and merges.txt, from tokenizer.json, or from the
/// merges.txt of CLIP itself alone, with tokenizer_config.json and special_tokens_map.json where
/// they exist. Throws Error (bad_input) that names the file.
std::unique_ptr<Tokenizer> open_clip_tokenizer(const std::filesystem::path& folder);

/// T5's unigram pieces from spiece.model, with tokenizer_config.json where it exists. Throws Error
/// (bad_input) that names the file.
std::unique_ptr<Tokenizer> open_t5_tokenizer(const std::filesystem::path& folder);

}  // namespace fluxlora
