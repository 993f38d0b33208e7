// SPDX-License-Identifier: Apache-2.0
// Which trigger words are good ones, by CLIP's real vocabulary.
#include "caption/trigger_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/assets.h"
#include "unit/expect_error.h"

namespace fluxlora::caption {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(TriggerCheck, TheVocabularyIsClipsOwn) {
  const auto clip = open_clip_tokenizer("builtin:clip-vocabulary");
  // Ids written down elsewhere: transformers' documentation and tests of CLIPTokenizer.
  EXPECT_EQ(clip->vocab_size(), 49408);
  EXPECT_THAT(clip->ids("a photo of a cat"), ElementsAre(320, 1125, 539, 320, 2368));
  EXPECT_EQ(clip->eos_id(), 49407);
}

TEST(TriggerCheck, CommonWordsAndNamesMeanSomething) {
  for (const char* word :
       {"dog", "Dog", "mascot", "anna", "taylor swift", "tom_cruise", "sks", "dog2"}) {
    const TriggerReport report = check_trigger(word);
    EXPECT_TRUE(report.means_something) << word;
    EXPECT_THAT(report.advice(), HasSubstr("a meaning of its own")) << word;
  }
  EXPECT_THAT(check_trigger("tom_cruise").known_words, ElementsAre("tom", "cruise"));
}

TEST(TriggerCheck, ASuggestionIsUnknownAndShort) {
  for (const char* word :
       {"dog", "mascot", "anna", "cat", "woman", "taylor", "sks", "ohwx", "zebra", "rhythm"}) {
    const TriggerReport report = check_trigger(word);
    ASSERT_FALSE(report.suggestion.empty()) << word;
    EXPECT_THAT(report.advice(), HasSubstr(report.suggestion));
    const TriggerReport again = check_trigger(report.suggestion);
    EXPECT_FALSE(again.means_something) << word << " -> " << report.suggestion;
    EXPECT_GE(again.clip_pieces.size(), 2u) << report.suggestion;
    EXPECT_LE(again.clip_pieces.size(), 4u) << report.suggestion;
  }
}

TEST(TriggerCheck, MadeUpWordsAreFine) {
  for (const char* word : {"zorbot", "mytoken_mascot", "zq", "x1y2"}) {
    const TriggerReport report = check_trigger(word);
    EXPECT_FALSE(report.means_something) << word;
    EXPECT_EQ(report.advice(), "") << word;
    EXPECT_EQ(report.suggestion, "") << word;
  }
  EXPECT_THAT(check_trigger("mytoken_mascot").known_words, ElementsAre("mascot"));
}

TEST(TriggerCheck, SaysHowBothTokenizersSplit) {
  const auto clip = open_clip_tokenizer("builtin:clip-vocabulary");
  const auto t5 = open_t5_tokenizer("builtin:tiny-flux/tokenizer_2");
  const TriggerReport report = check_trigger("zorbot", *clip, t5.get());
  EXPECT_THAT(report.clip_pieces, ElementsAre("zor", "bot"));
  EXPECT_EQ(report.t5_pieces, t5->pieces("zorbot"));
  EXPECT_THAT(report.split(), HasSubstr("2 for CLIP (zor + bot)"));
  EXPECT_THAT(report.split(), HasSubstr("for T5 ("));
  EXPECT_THAT(check_trigger("zorbot").t5_pieces, IsEmpty());
}

TEST(TriggerCheck, ManyPieces) {
  const TriggerReport report = check_trigger("wxyzqkjhbvwq");
  EXPECT_TRUE(report.many_pieces);
  EXPECT_THAT(report.advice(), HasSubstr("7 tokens"));
}

TEST(TriggerCheck, OddWords) {
  EXPECT_EQ(check_trigger("").advice(), "");
  EXPECT_EQ(check_trigger("1234").advice(), "");
  EXPECT_FALSE(check_trigger("日本語").clip_pieces.empty());
  EXPECT_ERROR(check_trigger("a\xff"), bad_input, "text", "UTF-8");
  EXPECT_ERROR(check_trigger(std::string(40000, 'a')), bad_input, "text", "bytes long");
}

}  // namespace
}  // namespace fluxlora::caption
