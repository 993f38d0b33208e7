// SPDX-License-Identifier: Apache-2.0
// Caption files and the trigger word.
#include "data/caption.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/data_fixtures.h"

namespace fluxlora {
namespace {

class CaptionTest : public DataTest {
 protected:
  std::string read(const std::string& bytes) { return read_caption(write("a.txt", bytes)); }
};

TEST_F(CaptionTest, white_space_is_collapsed) {
  EXPECT_EQ(read("a red cat"), "a red cat");
  EXPECT_EQ(read("  a red\r\n\tcat \n\n"), "a red cat");
  EXPECT_EQ(read("a\xC2\xA0\xE3\x80\x80"
                 "b"),
            "a b");  // no-break and ideographic space
  EXPECT_EQ(read(""), "");
  EXPECT_EQ(read(" \r\n "), "");
}

TEST_F(CaptionTest, text_of_all_scripts_stays) {
  const std::string text = "ein großer Bär, 熊, медведь, 🐻, e\xCC\x81";
  EXPECT_EQ(read(text), text);
  EXPECT_EQ(read("\xEF\xBB\xBF" + text + "\r\n"), text);
}

TEST_F(CaptionTest, what_is_not_utf8_is_refused_with_its_place) {
  const Error latin = error_of([&] { read("ein B\xE4r"); });
  EXPECT_EQ(latin.kind(), ErrorKind::bad_input);
  EXPECT_EQ(latin.message(), "is not UTF-8 text: byte 0xe4 at offset 5");
  EXPECT_THAT(latin.where(), testing::EndsWith("a.txt"));
  EXPECT_THROW(read("\xFF\xFE"
                    "a\0b\0"),
               Error);                                // UTF-16
  EXPECT_THROW(read(std::string("a\0b", 3)), Error);  // a zero byte
  EXPECT_THROW(read("cut off \xF0\x9F\x90"), Error);
  EXPECT_THROW(read("overlong \xC0\xAF"), Error);
  EXPECT_THROW(read("surrogate \xED\xA0\x80"), Error);
}

TEST_F(CaptionTest, size_is_limited) {
  EXPECT_EQ(read(std::string(100'000, 'x')).size(), 100'000u);
  EXPECT_EQ(error_of([&] { read(std::string(100'001, 'x')); }).message(),
            "is longer than 100,000 bytes, which is no caption");
}

TEST_F(CaptionTest, a_folder_is_no_caption) {
  fs::create_directory(folder() / "b.txt");
  EXPECT_EQ(error_of([&] { read_caption(folder() / "b.txt"); }).kind(), ErrorKind::bad_input);
}

TEST_F(CaptionTest, the_file_has_the_name_of_the_picture) {
  EXPECT_FALSE(caption_file(folder() / "a.b.jpg"));
  write("a.txt", "wrong");
  EXPECT_FALSE(caption_file(folder() / "a.b.jpg"));
  write("a.b.txt", "right");
  EXPECT_EQ(caption_file(folder() / "a.b.jpg"), folder() / "a.b.txt");
  write("C.TXT", "capital");
  EXPECT_EQ(caption_file(folder() / "C.JPG"), folder() / "C.TXT");
}

TEST(ContainsWord, whole_words_alone) {
  EXPECT_TRUE(contains_word("a photo of sks dog", "sks"));
  EXPECT_TRUE(contains_word("SKS, a dog", "sks"));
  EXPECT_TRUE(contains_word("(sks)", "SKS"));
  EXPECT_TRUE(contains_word("sks-dog", "sks"));
  EXPECT_TRUE(contains_word("GROẞE großE", "Große"));
  EXPECT_TRUE(contains_word("a two word trigger here", "two word"));
  EXPECT_FALSE(contains_word("asks", "sks"));
  EXPECT_FALSE(contains_word("sks2", "sks"));
  EXPECT_FALSE(contains_word("sks_dog", "sks"));
  EXPECT_FALSE(contains_word("skså", "sks"));
  EXPECT_FALSE(contains_word("sks\xCC\x81", "sks"));  // an accent belongs to its letter
  EXPECT_FALSE(contains_word("", "sks"));
  EXPECT_FALSE(contains_word("anything", ""));
  EXPECT_TRUE(contains_word("asks for sks", "sks"));
}

TEST(PutTrigger, every_caption_has_it_once) {
  EXPECT_EQ(put_trigger("a dog on grass", "sks"), "sks, a dog on grass");
  EXPECT_EQ(put_trigger("", "sks"), "sks");
  EXPECT_EQ(put_trigger("a photo of Sks on grass", "sks"), "a photo of Sks on grass");
  EXPECT_EQ(put_trigger("he asks for a dog", "sks"), "sks, he asks for a dog");
  EXPECT_EQ(put_trigger("a photo of [trigger] on grass", "sks"), "a photo of sks on grass");
  EXPECT_EQ(put_trigger("[trigger]", "sks"), "sks");
  EXPECT_EQ(put_trigger("[trigger] and [trigger]", "[trigger]s"), "[trigger]s and [trigger]s");
}

TEST(PutTrigger, an_empty_trigger_takes_the_placeholder_away) {
  EXPECT_EQ(put_trigger("a photo of a dog", ""), "a photo of a dog");
  EXPECT_EQ(put_trigger("a photo of [trigger] dog", ""), "a photo of dog");
  EXPECT_EQ(put_trigger("", ""), "");
}

}  // namespace
TEST(WithoutTrigger, whole_words_of_any_case_are_replaced) {
  EXPECT_EQ(without_trigger("zorb, a shape", "zorb", ""), "a shape");
  EXPECT_EQ(without_trigger("a ZORB on a beach", "zorb", "robot"), "a robot on a beach");
  EXPECT_EQ(without_trigger("zorb and (zorb)", "zorb", "robot"), "robot and (robot)");
  EXPECT_EQ(without_trigger("a shape, zorb", "zorb", ""), "a shape");
  EXPECT_EQ(without_trigger("zorbs, xzorb", "zorb", "robot"), "zorbs, xzorb");
  EXPECT_EQ(without_trigger("my GROẞE Bär", "große bär", "dog"), "my dog");
  EXPECT_EQ(without_trigger("zorb", "zorb", ""), "");
  EXPECT_EQ(without_trigger("a shape", "", "robot"), "a shape");
}

}  // namespace fluxlora
