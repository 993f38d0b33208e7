// SPDX-License-Identifier: Apache-2.0
// Tags and probabilities become a caption. The whole tagger: tests/interop/test_captions.py.
#include "caption/wd14_tagger.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "unit/expect_error.h"
#include "unit/temporary_folder.h"

namespace fluxlora::caption {
namespace {

const char* const kCsv =
    "tag_id,name,category,count\r\n"
    "1,general,9,5\n"
    "2,sensitive,9,5\n"
    "3,1girl,0,4\n"
    "4,long_hair,0,3\n"
    "5,>_<,0,2\n"
    "6,\"don't_say \"\"lazy\"\", please\",0,1\n"
    "7,hatsune_miku,4,9\n"
    "8,some_artist,1,9\n";

std::vector<Tag> tags() {
  const TemporaryFolder folder;
  write_file_atomically(folder / "selected_tags.csv", std::string_view(kCsv));
  return read_tags(folder / "selected_tags.csv");
}

TEST(Wd14Tags, TheFileIsRead) {
  const std::vector<Tag> all = tags();
  ASSERT_EQ(all.size(), 8u);
  EXPECT_EQ(all[0].kind, TagKind::rating);
  EXPECT_EQ(all[3].name, "long_hair");
  EXPECT_EQ(all[5].name, "don't_say \"lazy\", please");
  EXPECT_EQ(all[6].kind, TagKind::character);
  EXPECT_EQ(all[7].kind, TagKind::other);
}

TEST(Wd14Tags, ThresholdsOrderAndNames) {
  const std::vector<float> p{0.99f, 0.9f, 0.5f, 0.75f, 0.4f, 0.2f, 0.9f, 0.9f};
  TaggerOptions options;
  EXPECT_EQ(tags_caption(tags(), p, options), "hatsune miku, long hair, 1girl, >_<");
  options.blacklist = {"Long Hair", "1GIRL"};
  EXPECT_EQ(tags_caption(tags(), p, options), "hatsune miku, >_<");
  options.blacklist = {"long_hair"};
  options.character_threshold = 0.95;
  options.general_threshold = 0.5;  // 1girl has exactly that: a tag must have more
  EXPECT_EQ(tags_caption(tags(), p, options), "");
  options.general_threshold = 0;
  EXPECT_EQ(tags_caption(tags(), p, options), "1girl, >_<, don't say \"lazy\", please");
}

TEST(Wd14Tags, WhatIsWrongIsSaid) {
  const TemporaryFolder folder;
  const auto csv = folder / "selected_tags.csv";
  EXPECT_ERROR(read_tags(csv), bad_input, "selected_tags.csv", "");
  write_file_atomically(csv, std::string_view(""));
  EXPECT_ERROR(read_tags(csv), bad_input, "selected_tags.csv:1", "no column \"name\"");
  write_file_atomically(csv, std::string_view("name,category\n"));
  EXPECT_ERROR(read_tags(csv), bad_input, "selected_tags.csv", "holds no tags");
  write_file_atomically(csv, std::string_view("name,category\ncat,0\ndog\n"));
  EXPECT_ERROR(read_tags(csv), bad_input, "selected_tags.csv:3", "too few fields");
  TaggerOptions options;
  options.general_threshold = 1.5;
  EXPECT_ERROR(open_wd14_tagger(folder.path(), options), bad_input, "threshold", "is 1.5");
  Options captions;
  captions.kind = "wd14";
  EXPECT_ERROR(open_captioner(captions), bad_input, "--caption wd14", "needs the folder");
  captions.model = folder / "no";
  EXPECT_ERROR(open_captioner(captions), bad_input, "no", "is no folder");
  captions.kind = "blip";
  EXPECT_ERROR(open_captioner(captions), bad_input, "--caption blip", "is not known");
}

}  // namespace
}  // namespace fluxlora::caption
