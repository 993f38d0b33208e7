// SPDX-License-Identifier: Apache-2.0
// The forms of a caption: tags in other orders, words chosen.
#include "data/caption_source.h"

#include <algorithm>
#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fluxlora {
namespace {

using testing::ElementsAre;
using testing::StartsWith;
using testing::UnorderedElementsAre;

FormOptions shuffled(int64_t keep, int64_t forms = 64) {
  FormOptions options;
  options.shuffle_tags = true;
  options.keep_tags = keep;
  options.forms = forms;
  options.trigger = "sks";
  return options;
}

std::multiset<std::string> tags(const std::string& caption) {
  std::multiset<std::string> tags;
  for (size_t at = 0; at < caption.size();) {
    const size_t end = std::min(caption.find(", ", at), caption.size());
    tags.insert(caption.substr(at, end - at));
    at = end + 2;
  }
  return tags;
}

TEST(CaptionForms, a_caption_stays_as_it_is_unless_asked) {
  for (const char* text : {"", "one, two ,three", "a {red|blue} car", ",,"})
    EXPECT_THAT(caption_forms(text, {}), ElementsAre(text));
  EXPECT_THAT(caption_forms("one, two ||| three", {}), ElementsAre("one, two, three"));
}

TEST(CaptionForms, tags_come_in_all_orders) {
  // 64 draws of 6 orders: that one is missing has a chance of 6 (5/6)^63 = 6e-5, and the draws are
  // the same each time.
  const auto forms = caption_forms("sks, a, b, c", shuffled(0));
  EXPECT_THAT(forms, UnorderedElementsAre("sks, a, b, c", "sks, a, c, b", "sks, b, a, c",
                                          "sks, b, c, a", "sks, c, a, b", "sks, c, b, a"));
  EXPECT_EQ(forms[0], "sks, a, b, c");
  EXPECT_EQ(caption_forms("sks, a, b, c", shuffled(0)), forms);
  EXPECT_EQ(caption_forms("sks, a, b, c, d, e, f", shuffled(0, 8)).size(), 8u);
  EXPECT_EQ(caption_forms("sks, a, b, c", shuffled(0, 1)).size(), 1u);
}

TEST(CaptionForms, kept_tags_stay_and_none_is_lost) {
  const std::string caption = "a, b, sks, c, d, b";
  for (int64_t keep = 0; keep <= 7; ++keep) {
    const auto forms = caption_forms(caption, shuffled(keep));
    const std::string front = caption.substr(0, std::min<size_t>(caption.size(), size_t(keep) * 3));
    for (const std::string& form : forms) {
      EXPECT_EQ(tags(form), tags(caption));
      if (keep <= 2) {
        EXPECT_THAT(form, StartsWith(front));
      }
    }
    if (keep >= 5) {
      EXPECT_EQ(forms.size(), 1u) << keep;
    }
  }
  for (const std::string& form : caption_forms("x, y ||| a, b, c ||| z", shuffled(0))) {
    EXPECT_THAT(form, StartsWith("x, y, "));
    EXPECT_THAT(form, testing::EndsWith(", z"));
    EXPECT_EQ(tags(form).size(), 6u);
  }
}

TEST(CaptionForms, words_are_chosen) {
  FormOptions options;
  options.choices = true;
  options.forms = 64;
  EXPECT_THAT(caption_forms("a {red|blue} {car|van}", options),
              UnorderedElementsAre("a red car", "a red van", "a blue car", "a blue van"));
  EXPECT_THAT(caption_forms("{a|{b|c} d}", options), UnorderedElementsAre("a", "b d", "c d"));
  EXPECT_THAT(caption_forms("{very |}big", options), UnorderedElementsAre("very big", "big"));
  for (const char* text : {"}{", "{a", "a}", "{}", "{a}", "a|b", "}", "{"})
    EXPECT_THAT(caption_forms(text, options), ElementsAre(text));
  EXPECT_EQ(caption_forms("a {red|blue} car", options)[0], "a red car");
  // 100,000 braces take no time to speak of.
  EXPECT_EQ(caption_forms(std::string(100'000, '{'), options).size(), 1u);
  EXPECT_EQ(caption_forms(std::string(50'000, '{') + std::string(50'000, '}'), options).size(), 1u);
}

}  // namespace
}  // namespace fluxlora
