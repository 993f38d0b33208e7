// SPDX-License-Identifier: Apache-2.0
// The tokenizers: ids of the built-in ones against transformers (tokenizer_expected.json), and what
// happens to texts and files that are wrong. Many more texts: tests/interop/test_tokenizers.py.
#include "tokenizer/tokenizer.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/philox.h"
#include "tokenizer/byte_pairs.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unigram.h"
#include "unit/expect_error.h"
#include "unit/temporary_folder.h"

namespace fluxlora {
namespace {

using Ids = std::vector<int32_t>;
using Texts = std::vector<std::string>;

std::filesystem::path tiny(const std::string& name) {
  return std::filesystem::path(FLUXLORA_SOURCE_DIR) / "assets/tiny-flux" / name;
}

void write(const std::filesystem::path& path, std::string_view content) {
  std::ofstream(path, std::ios::binary) << content;
}

void expect_ids(const Tokenizer& tokenizer, const std::string& kind) {
  const auto path =
      std::filesystem::path(FLUXLORA_SOURCE_DIR) / "tests/unit/tokenizer_expected.json";
  const auto pairs = nlohmann::json::parse(read_text(path)).at(kind);
  ASSERT_GT(pairs.size(), 150u);
  for (const auto& pair : pairs) {
    const auto text = pair[0].get<std::string>();
    const Ids expected = pair[1];
    ASSERT_EQ(tokenizer.places(text), static_cast<int64_t>(expected.size())) << text;
    EXPECT_EQ(tokenizer.encode(text, static_cast<int>(expected.size())), expected) << text;
  }
}

// ---- CLIP
// ------------------------------------------------------------------------------------------

TEST(ClipTokenizer, IdsOfTransformers) {
  expect_ids(*open_clip_tokenizer(tiny("tokenizer")), "clip");
}

TEST(ClipTokenizer, BuiltinFolder) {
  const auto tokenizer = open_clip_tokenizer("builtin:tiny-flux/tokenizer");
  EXPECT_EQ(tokenizer->ids("a red circle"),
            open_clip_tokenizer(tiny("tokenizer"))->ids("A  RED\ncircle "));
}

TEST(ClipTokenizer, CutsAndPads) {
  const auto tokenizer = open_clip_tokenizer(tiny("tokenizer"));
  const int32_t bos = tokenizer->id_of("<|startoftext|>"), eos = tokenizer->eos_id();
  EXPECT_EQ(tokenizer->id_of("no such token"), -1);
  EXPECT_EQ(tokenizer->vocab_size(), 768);
  EXPECT_EQ(tokenizer->encode("", 4), (Ids{bos, eos, tokenizer->pad_id(), tokenizer->pad_id()}));
  const Ids seven = tokenizer->ids("7");
  ASSERT_EQ(seven.size(), 1u);
  EXPECT_EQ(tokenizer->encode("7777777", 5), (Ids{bos, seven[0], seven[0], seven[0], eos}));
  EXPECT_EQ(tokenizer->places("7777777"), 9);
}

TEST(ClipTokenizer, PiecesForPeople) {
  const auto tokenizer = open_clip_tokenizer(tiny("tokenizer"));
  EXPECT_EQ(tokenizer->pieces("é9"), (Texts{"<0xC3>", "<0xA9>", "9"}));
  std::string joined;
  for (const std::string& piece : tokenizer->pieces("MyToken_mascot")) joined += piece;
  EXPECT_EQ(joined, "mytoken_mascot");
}

/// The base symbols of a small alphabet, their word ends, and some merges.
std::string small_vocabulary() {
  return R"({"a":0,"b":1,"c":2,"a</w>":3,"b</w>":4,"c</w>":5,"ab":6,"abc</w>":7,"bc</w>":8,"aa":9,
             "<|startoftext|>":10,"<|endoftext|>":11,"[x]":12})";
}

TEST(ClipTokenizer, MergesByRank) {
  const TemporaryFolder folder;
  write(folder / "vocab.json", small_vocabulary());
  write(folder / "merges.txt", "#version: 0.2\nb c</w>\na b\r\nab c</w>\na a\n");
  const auto tokenizer = open_clip_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->ids("abc"), (Ids{0, 8}));      // "b c" comes first
  EXPECT_EQ(tokenizer->ids("ABab"), (Ids{6, 0, 4}));  // no merge ends a word with b
  EXPECT_EQ(tokenizer->ids("aaaa"), (Ids{9, 0, 3}));  // from the left
  EXPECT_EQ(tokenizer->ids("aza"), (Ids{0, 11, 3}));  // z is not in the vocabulary
  EXPECT_EQ(tokenizer->ids("a<|endoftext|>b"), (Ids{3, 11, 4}));
  EXPECT_EQ(tokenizer->ids("[x]"), (Ids{11, 11, 11}));  // a token that no merge reaches
}

TEST(ClipTokenizer, LongWordsTakeNoLongerThanTheirLength) {
  const auto tokenizer = open_clip_tokenizer(tiny("tokenizer"));
  EXPECT_EQ(tokenizer->encode(std::string(32768, 'e'), 77).size(), 77u);
  std::string marks;  // sorted by utf8proc in quadratic time
  for (int i = 0; i < 8192; ++i) marks += i % 2 ? "\u0301" : "\u0316";
  EXPECT_EQ(tokenizer->encode(marks, 77).size(), 77u);
}

TEST(ClipTokenizer, TextsThatAreWrong) {
  const auto tokenizer = open_clip_tokenizer(tiny("tokenizer"));
  EXPECT_ERROR(tokenizer->ids("a\nb\xff"), bad_input, "line 2", "is not UTF-8");
  EXPECT_ERROR(tokenizer->ids("\xed\xa0\x80"), bad_input, "line 1", "is not UTF-8");  // a surrogate
  EXPECT_ERROR(tokenizer->ids("\xc0\x80"), bad_input, "line 1", "is not UTF-8");      // overlong
  EXPECT_ERROR(tokenizer->ids(std::string(32769, 'a')), bad_input, "aaaa", "32769 bytes");
}

struct WrongFile {
  std::string name, content, what;
};

TEST(ClipTokenizer, FilesThatAreWrong) {
  const std::vector<WrongFile> cases{
      {"vocab.json", "{\"a\": 0,", "no vocabulary"},
      {"vocab.json", "{}", "no vocabulary"},
      {"vocab.json", "[1]", "no vocabulary"},
      {"vocab.json", "{\"a\": \"b\"}", "usable id"},
      {"vocab.json", "{\"a\": -1}", "usable id"},
      {"merges.txt", "a b c\n", "two symbols"},
      {"merges.txt", "a\n", "two symbols"},
      {"merges.txt", "a q\n", "the vocabulary lacks"},
      {"merges.txt", "\xff\n", "UTF-8"},
      {"tokenizer_config.json", "{\"eos_token\": ", "not a JSON object"},
      {"tokenizer_config.json", "{\"added_tokens_decoder\": {\"x\": {}}}", "id \"x\""},
      {"tokenizer_config.json", "{\"added_tokens_decoder\": {\"1\": {}}}", "without \"content\""},
      {"special_tokens_map.json", "[]", "not a JSON object"},
  };
  for (const WrongFile& wrong : cases) {
    const TemporaryFolder folder;
    write(folder / "vocab.json", small_vocabulary());
    write(folder / "merges.txt", "a b\n");
    write(folder / wrong.name, wrong.content);
    SCOPED_TRACE(wrong.name + ": " + wrong.content);
    EXPECT_ERROR(open_clip_tokenizer(folder.path()), bad_input, wrong.name, wrong.what);
  }
  const TemporaryFolder folder;
  EXPECT_ERROR(open_clip_tokenizer(folder.path()), bad_input, "vocab.json", "");
  write(folder / "vocab.json", small_vocabulary());
  EXPECT_ERROR(open_clip_tokenizer(folder.path()), bad_input, "merges.txt", "");
  write(folder / "merges.txt", "a b\n");
  write(folder / "tokenizer_config.json", "{\"pad_token\": \"<nothing>\"}");
  EXPECT_ERROR(open_clip_tokenizer(folder.path()), bad_input, folder.path().string(), "<nothing>");
}

TEST(ClipTokenizer, HugeIdsTakeNoMemory) {
  const TemporaryFolder folder;
  write(folder / "vocab.json", R"({"a": 2147483647})");
  write(folder / "merges.txt", "");
  EXPECT_ERROR(open_clip_tokenizer(folder.path()), bad_input, "merges.txt", "2147483647");
}

TEST(ClipTokenizer, TokenizerJson) {
  const TemporaryFolder folder;
  const std::string model = "{\"vocab\": " + small_vocabulary() + ", \"merges\": ";
  write(folder / "tokenizer.json", "{\"model\": " + model + "[\"b c</w>\", [\"a\", \"b\"]]}}");
  EXPECT_EQ(open_clip_tokenizer(folder.path())->ids("abc ab"), (Ids{0, 8, 0, 4}));
  for (const std::string content : {"{}", "{\"model\": {}}", "{\"model\": 3}", "nonsense"}) {
    write(folder / "tokenizer.json", content);
    EXPECT_ERROR(open_clip_tokenizer(folder.path()), bad_input, "tokenizer.json", "");
  }
  write(folder / "tokenizer.json", "{\"model\": " + model + "[3]}}");
  EXPECT_ERROR(open_clip_tokenizer(folder.path()), bad_input, "tokenizer.json", "pair of symbols");
}

// ---- T5
// --------------------------------------------------------------------------------------------

TEST(T5Tokenizer, IdsOfTransformers) {
  expect_ids(*open_t5_tokenizer(tiny("tokenizer_2")), "t5");
}

TEST(T5Tokenizer, CutsAndPads) {
  const auto tokenizer = open_t5_tokenizer(tiny("tokenizer_2"));
  EXPECT_EQ(tokenizer->eos_id(), 1);
  EXPECT_EQ(tokenizer->pad_id(), 0);
  EXPECT_EQ(tokenizer->vocab_size(), 1024);
  EXPECT_EQ(tokenizer->id_of("<extra_id_0>"), 1023);
  EXPECT_EQ(tokenizer->encode("", 3), (Ids{1, 0, 0}));
  EXPECT_EQ(tokenizer->encode("<extra_id_0><extra_id_1> <extra_id_2>", 3), (Ids{1023, 1022, 1}));
  EXPECT_EQ(tokenizer->pieces("<extra_id_5>"), Texts{"<extra_id_5>"});
  std::string joined;
  for (const std::string& piece : tokenizer->pieces("mytoken mascot")) joined += piece;
  EXPECT_EQ(joined, "▁mytoken▁mascot");
}

TEST(T5Tokenizer, FilesThatAreWrong) {
  const TemporaryFolder folder;
  EXPECT_ERROR(open_t5_tokenizer(folder.path()), bad_input, "spiece.model", "");
  write(folder / "spiece.model", "");
  EXPECT_ERROR(open_t5_tokenizer(folder.path()), bad_input, "spiece.model", "");
  write(folder / "spiece.model", "this is not a model at all");
  EXPECT_ERROR(open_t5_tokenizer(folder.path()), bad_input, "spiece.model", "not a sentencepiece");
}

TEST(T5Tokenizer, DamageNeverCrashes) {
  const std::string whole = read_text(tiny("tokenizer_2") / "spiece.model", Encoding::any);
  const TemporaryFolder folder;
  Philox random(3, Draw::init);
  int opened = 0;
  for (int round = 0; round < 60; ++round) {
    std::string bytes = whole;
    if (round % 3 == 0) bytes.resize(random.below(static_cast<uint32_t>(whole.size())));
    for (int i = 0; i < 1 + round % 40 && !bytes.empty(); ++i)
      bytes[random.below(static_cast<uint32_t>(bytes.size()))] = static_cast<char>(random.bits());
    write(folder / "spiece.model", bytes);
    try {
      const auto tokenizer = open_t5_tokenizer(folder.path());
      ++opened;
      EXPECT_EQ(tokenizer->encode("A red circle ｆｕｌｌ e\u0301 日本", 64).size(), 64u);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input) << error.two_lines();
    }
  }
  EXPECT_GT(opened, 0);
}

TEST(Unigram, BestCutAndUnknowns) {
  const Unigram model({{"<unk>", 0}, {"a", -1}, {"b", -3}, {"ab", -2}, {"c", -1}, {"abc", -3.5}},
                      0);
  const auto ids = [&](std::string_view word) {
    Ids out;
    model.append_ids(out, word);
    return out;
  };
  EXPECT_EQ(ids("abc"), (Ids{3, 4}));         // -3 is better than -3.5 and -5
  EXPECT_EQ(ids("xyabé日"), (Ids{0, 3, 0}));  // unknowns fuse
  EXPECT_EQ(ids(""), Ids{});
}

// ---- Unicode
// -----------------------------------------------------------------------------------------

TEST(Unicode, LowersEachCharacterAlone) {
  EXPECT_EQ(unicode::lower("ÀΣ ΟΔΟΣ ẞ İ ǅ Ა"), "àσ οδοσ ß i\u0307 ǆ ა");
  EXPECT_EQ(unicode::nfc("e\u0301 \u212b \u1100\u1161"), "é Å 가");
}

TEST(Unicode, GraphemeClusters) {
  const std::string family = "👩‍👩‍👧e\u0301\u0323x";
  const size_t first = unicode::grapheme_end(family, 0);
  EXPECT_EQ(first, std::string("👩‍👩‍👧").size());
  EXPECT_EQ(unicode::grapheme_end(family, first), family.size() - 1);
  EXPECT_EQ(unicode::grapheme_end("\r\n", 0), 2u);
}

}  // namespace
}  // namespace fluxlora
