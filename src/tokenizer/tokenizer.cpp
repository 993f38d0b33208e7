// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"

namespace fluxlora {
namespace {

// Some steps are quadratic in a run of combining marks, so that length must have a bound; 512
// tokens are some 3,000 bytes.
constexpr size_t kLongestText = 32768;

void check_text(std::string_view text) {
  if (text.size() > kLongestText)
    throw bad_input("text \"" + std::string(text.substr(0, 20)) + "...\"",
                    "is " + std::to_string(text.size()) + " bytes long",
                    "shorten it: a model reads at most 512 tokens");
  if (const size_t line = line_that_is_not_utf8(text); line != 0)
    throw bad_input("text, line " + std::to_string(line), "is not UTF-8",
                    "save captions and prompts as UTF-8");
}

}  // namespace

void Tokenizer::set_specials(const std::vector<SpecialToken>& specials) {
  for (const SpecialToken& token : specials) {
    if (token.normalized)
      normalized_.add(normalize(token.text), token.id);
    else
      raw_.add(token.text, token.id);
  }
}

std::vector<int32_t> Tokenizer::ids(std::string_view text) const {
  check_text(text);
  std::vector<int32_t> out;
  for (const Segment& segment : raw_.split(text)) {
    if (segment.id >= 0) {
      out.push_back(segment.id);
      continue;
    }
    const std::string plain = normalize(segment.text);
    for (const Segment& part : normalized_.split(plain)) {
      if (part.id >= 0)
        out.push_back(part.id);
      else
        append_ids(out, part.text);
    }
  }
  return out;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, int length) const {
  CHECK(length >= (bos_id_ >= 0 ? 2 : 1), "tokenizer: length");
  std::vector<int32_t> inner = ids(text);
  const size_t room = static_cast<size_t>(length) - (bos_id_ >= 0 ? 2 : 1);
  inner.resize(std::min(inner.size(), room));
  std::vector<int32_t> out;
  out.reserve(static_cast<size_t>(length));
  if (bos_id_ >= 0) out.push_back(bos_id_);
  out.insert(out.end(), inner.begin(), inner.end());
  out.push_back(eos_id_);
  out.resize(static_cast<size_t>(length), pad_id_);
  return out;
}

int64_t Tokenizer::places(std::string_view text) const {
  return static_cast<int64_t>(ids(text).size()) + (bos_id_ >= 0 ? 2 : 1);
}

std::vector<std::string> Tokenizer::pieces(std::string_view text) const {
  std::vector<std::string> out;
  for (const int32_t id : ids(text)) out.push_back(readable(id));
  return out;
}

}  // namespace fluxlora
