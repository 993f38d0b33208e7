// SPDX-License-Identifier: Apache-2.0
// Folders of pictures become examples, or an Error that names everything that is wrong.
#include "data/dataset.h"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <vips/vips8>

#include "data/vips_library.h"
#include "tensor/buffer.h"
#include "unit/data_fixtures.h"

namespace fluxlora {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

class DatasetTest : public DataTest {
 protected:
  /// A picture of noise in FOLDER/`name`.
  fs::path picture(const std::string& name, int width = 80, int height = 64) {
    const fs::path path = folder() / name;
    fs::create_directories(path.parent_path());
    const Picture noise = noise_picture(width, height, ++seed_);
    as_vips(noise).write_to_file(path.c_str());
    return path;
  }
  DatasetOptions options(std::vector<std::string> folders = {"p"}) {
    DatasetOptions options;
    options.resolution = 64;
    for (const std::string& name : folders) {
      options.folders.emplace_back();
      options.folders.back().path = folder() / name;
    }
    return options;
  }
  unsigned seed_ = 0;
};

TEST_F(DatasetTest, examples_are_sorted_and_complete) {
  picture("p/b.png");
  picture("p/a.jpg", 64, 100);
  picture("p/C.PNG");
  write("p/a.txt", "a red\ncar ");
  write("p/b.txt", "[trigger] on grass");
  write("p/.hidden.png", "no picture");
  write("p/notes.md", "x");
  picture("p/inside/d.png");
  DatasetOptions asked = options();
  asked.folders[0].caption = "a photo of [trigger]";
  asked.folders[0].repeats = 3;
  asked.folders[0].weight = 0.5;
  const Dataset dataset = scan(asked, "sks");
  ASSERT_EQ(dataset.examples.size(), 3u);
  const auto& [c, a, b] = std::tie(dataset.examples[0], dataset.examples[1], dataset.examples[2]);
  EXPECT_EQ(c.path.filename(), "C.PNG");
  EXPECT_THAT(c.captions, ElementsAre("a photo of sks"));
  EXPECT_EQ(a.path.filename(), "a.jpg");
  EXPECT_THAT(a.captions, ElementsAre("sks, a red car"));
  EXPECT_EQ(a.source, (Size{64, 100}));
  EXPECT_EQ(a.box, (Box{0, 18, 64, 64}));
  EXPECT_EQ(a.size, (Size{64, 64}));
  EXPECT_EQ(a.repeats, 3);
  EXPECT_EQ(a.weight, 0.5);
  EXPECT_FALSE(a.regularisation);
  EXPECT_EQ(a.hash.size(), 64u);
  EXPECT_THAT(b.captions, ElementsAre("sks on grass"));
  EXPECT_THAT(dataset.notes, Contains(HasSubstr("folders inside are not read: inside")));
  EXPECT_THAT(dataset.notes, Contains(HasSubstr("left aside: notes.md")));
  const Picture pixels = load_pixels(a);
  EXPECT_EQ(pixels.width, 64);
  EXPECT_EQ(pixels.height, 64);
}

TEST_F(DatasetTest, the_hash_follows_content_and_not_names_of_folders) {
  const fs::path first = picture("p/a.png");
  fs::create_directories(folder() / "q");
  fs::copy_file(first, folder() / "q" / "a.png");
  const std::string hash = scan(options(), "sks").hash;
  EXPECT_EQ(scan(options({"q"}), "sks").hash, hash);
  EXPECT_NE(scan(options(), "other").hash, hash);
  DatasetOptions heavier = options();
  heavier.folders[0].weight = 2;
  EXPECT_NE(scan(heavier, "sks").hash, hash);
  picture("q/b.png");
  EXPECT_NE(scan(options({"q"}), "sks").hash, hash);
}

TEST_F(DatasetTest, regularisation_pictures_have_no_trigger) {
  picture("p/a.png");
  picture("r/x.png");
  picture("r/y.png");
  picture("r/z.png");
  write("r/x.txt", "a [trigger] dog");
  write("r/y.txt", "sks again");
  DatasetOptions asked = options({"p", "r"});
  asked.folders[1].regularisation = true;
  asked.folders[1].weight = 0.25;
  const Dataset dataset = scan(asked, "sks");
  ASSERT_EQ(dataset.examples.size(), 4u);
  EXPECT_THAT(dataset.examples[0].captions, ElementsAre("sks"));
  EXPECT_THAT(dataset.examples[1].captions, ElementsAre("a dog"));
  EXPECT_THAT(dataset.examples[2].captions, ElementsAre("sks again"));
  EXPECT_THAT(dataset.examples[3].captions, ElementsAre(""));
  EXPECT_TRUE(dataset.examples[3].regularisation);
  EXPECT_EQ(dataset.examples[3].folder, 1);
  EXPECT_EQ(dataset.examples[3].weight, 0.25);
  EXPECT_THAT(dataset.warnings, Contains(AllOf(HasSubstr("y.png"), HasSubstr("trigger word"))));
}

TEST_F(DatasetTest, a_folder_may_have_a_trigger_and_resolutions_of_its_own) {
  picture("p/a.png", 200, 200);
  DatasetOptions asked = options();
  asked.folders[0].trigger = "own";
  asked.folders[0].resolutions = {96, 32, 96};
  const Dataset dataset = scan(asked, "sks");
  ASSERT_EQ(dataset.examples.size(), 2u);
  EXPECT_EQ(dataset.examples[0].size, (Size{32, 32}));
  EXPECT_EQ(dataset.examples[1].size, (Size{96, 96}));
  EXPECT_THAT(dataset.examples[0].captions, ElementsAre("own"));
  asked.folders[0].trigger = "";
  EXPECT_THAT(scan(asked, "sks").examples[0].captions, ElementsAre(""));
}

TEST_F(DatasetTest, warns_of_names_that_do_not_fit) {
  picture("p/twice.png");
  picture("p/twice.jpg");
  picture("p/other.png");
  picture("p/other.webp");
  write("p/twice.txt", "one text for two");
  write("p/nothing.txt", "text without a picture");
  const std::vector<std::string> warnings = scan(options(), "sks").warnings;
  EXPECT_THAT(warnings, Contains(HasSubstr("twice.jpg, twice.png share the caption twice.txt")));
  EXPECT_THAT(warnings, Contains(HasSubstr("other.png, other.webp have one name")));
  EXPECT_THAT(warnings, Contains(HasSubstr("no picture belongs to nothing.txt")));
  EXPECT_EQ(warnings.size(), 3u);
}

TEST_F(DatasetTest, good_pictures_give_no_warning) {
  for (int i = 0; i < 3; ++i) picture("p/" + std::to_string(i) + ".png");
  const Dataset dataset = scan(options(), "sks");
  EXPECT_THAT(dataset.warnings, testing::IsEmpty());
  EXPECT_THAT(dataset.notes, testing::IsEmpty());
}

TEST_F(DatasetTest, folders_that_cannot_be_used_are_refused) {
  const auto message = [&](const DatasetOptions& asked) {
    return error_of([&] { scan(asked, "sks"); }).message();
  };
  EXPECT_EQ(message(options({})), "names no folder");
  EXPECT_EQ(message(options({"missing"})), "does not exist");
  fs::create_directory(folder() / "empty");
  EXPECT_EQ(message(options({"empty"})), "is empty");
  write("texts/a.txt", "x");
  EXPECT_EQ(message(options({"texts"})), "holds no picture");
  write("file", "x");
  EXPECT_EQ(message(options({"file"})), "is not a folder");
  picture("p/a.png");
  DatasetOptions masked = options();
  masked.folders[0].mask = folder() / "file";
  EXPECT_EQ(message(masked), "is not a folder of masks");
  masked.folders[0].alpha_mask = true;
  EXPECT_EQ(message(masked), "has both mask and alpha_mask");
  DatasetOptions regularisation = options();
  regularisation.folders[0].regularisation = true;
  EXPECT_THAT(message(regularisation), HasSubstr("nothing to learn"));
  DatasetOptions nameless = options({"p"});
  nameless.folders[0].path.clear();
  EXPECT_EQ(message(nameless), "one of the folders has no path");
}

TEST_F(DatasetTest, options_out_of_range_are_refused) {
  picture("p/a.png");
  const auto hint = [&](auto&& change) {
    DatasetOptions asked = options();
    change(asked);
    return error_of([&] { scan(asked, "sks"); }).hint();
  };
  EXPECT_EQ(hint([](auto& o) { o.resolution = 100; }), "96 is the nearest that works");
  EXPECT_EQ(hint([](auto& o) { o.resolution = 0; }), "16 is the nearest that works");
  EXPECT_EQ(hint([](auto& o) { o.resolution = -512; }), "16 is the nearest that works");
  EXPECT_EQ(hint([](auto& o) { o.resolution = std::numeric_limits<int64_t>::max(); }),
            "8192 is the nearest that works");
  EXPECT_EQ(hint([](auto& o) { o.folders[0].resolutions = {64, 1000}; }),
            "1008 is the nearest that works");
  EXPECT_EQ(hint([](auto& o) { o.folders[0].repeats = 0; }), "give a number from 1 to 1000");
  EXPECT_THAT(hint([](auto& o) { o.folders[0].weight = 0; }), HasSubstr("above 0"));
  EXPECT_THAT(hint([](auto& o) { o.folders[0].weight = std::nan(""); }), HasSubstr("above 0"));
  EXPECT_THAT(hint([](auto& o) { o.folders[0].generate = 3; }), HasSubstr("regularisation = true"));
  EXPECT_EQ(hint([](auto& o) { o.folders[0].keep_tags = -1; }), "give 0 or more");
  EXPECT_EQ(hint([](auto& o) { o.folders[0].caption_forms = 65; }), "give a number from 1 to 64");
  EXPECT_THAT(hint([](auto& o) { o.folders[0].caption_dropout = 1.5; }), HasSubstr("from 0 to 1"));
  EXPECT_THAT(hint([](auto& o) { o.max_upscale = 0.5; }), HasSubstr("1 or more"));
}

TEST_F(DatasetTest, all_problems_are_found_at_once) {
  picture("p/good.png");
  picture("p/tiny.png", 1, 1);
  write("p/text.png", "text");
  write("p/zero.png", "");
  write("p/good.txt", "B\xE4r");
  fs::create_directories(folder() / "p" / "folder.png");
  const Error error = error_of([&] { scan(options({"p", "missing"}), "sks"); });
  EXPECT_EQ(error.kind(), ErrorKind::bad_input);
  EXPECT_THAT(error.where(), testing::EndsWith("folder.png"));
  EXPECT_EQ(error.message(), "is a folder, not a picture");
  EXPECT_THAT(error.hint(), HasSubstr("rename the folder or move it away (5 more problems: "));
  EXPECT_THAT(error.hint(), HasSubstr("text.png is not a picture"));
  EXPECT_THAT(error.hint(), HasSubstr("and 2 more)"));
  EXPECT_THAT(error.two_lines(), testing::Not(HasSubstr("\n\n")));
}

TEST_F(DatasetTest, a_picture_that_is_far_too_small_is_refused) {
  picture("p/tiny.png", 15, 40);
  const Error error = error_of([&] { scan(options(), "sks"); });
  EXPECT_EQ(error.message(), "has 15x40 pixels, too few to train at 64x64");
  EXPECT_EQ(error.hint(), "remove it or use a picture of at least 16x16 pixels");
  picture("p/tiny.png", 16, 40);
  EXPECT_NO_THROW(scan(options(), "sks"));
}

TEST_F(DatasetTest, a_resolution_beyond_the_limit_is_left_out) {
  picture("p/a.png", 40, 50);
  DatasetOptions asked = options();
  asked.folders[0].resolutions = {32, 64, 96};
  asked.max_upscale = 1.6;
  Dataset dataset = scan(asked, "sks");
  ASSERT_EQ(dataset.examples.size(), 2u);
  EXPECT_EQ(dataset.examples[1].size, (Size{64, 64}));
  EXPECT_THAT(dataset.notes, Contains(HasSubstr("a.png: is too small to be trained at 96x96")));
  asked.max_upscale = 1;
  EXPECT_EQ(scan(asked, "sks").examples.size(), 1u);
  asked.folders[0].resolutions = {64, 96};
  const Error error = error_of([&] { scan(asked, "sks"); });
  EXPECT_EQ(error.message(), "has 40x50 pixels, too few to train at 64x64");
  EXPECT_THAT(error.hint(), HasSubstr("at least 64x64 pixels"));
}

TEST_F(DatasetTest, buckets_keep_the_shape) {
  picture("p/a.png", 300, 200);
  picture("p/b.png", 200, 300);
  picture("p/c.png", 300, 300);
  picture("p/d.png", 900, 100);
  DatasetOptions asked = options();
  asked.buckets = true;
  asked.bucket_step = 16;
  asked.folders[0].resolutions = {96, 192};
  const Dataset dataset = scan(asked, "sks");
  std::vector<Size> sizes;
  for (const Example& e : dataset.examples) sizes.push_back(e.size);
  // 3:2 is 1.5: in 9,216 pixels 112x80 (1.40) is nearer than 144x64 (2.25), in 36,864 224x160
  // (1.40) than 240x144 (1.67).
  EXPECT_EQ(sizes, (std::vector<Size>{{112, 80},
                                      {224, 160},
                                      {80, 112},
                                      {160, 224},
                                      {96, 96},
                                      {192, 192},
                                      {192, 48},
                                      {384, 96}}));
  EXPECT_EQ(dataset.examples[1].box, (Box{10, 0, 280, 200}));
  const Picture pixels = load_pixels(dataset.examples[1]);
  EXPECT_EQ(pixels.width, 224);
  EXPECT_EQ(pixels.height, 160);
  asked.bucket_step = 64;
  EXPECT_EQ(scan(asked, "sks").examples[1].size, (Size{256, 128}));
  asked.bucket_step = 128;
  EXPECT_THAT(error_of([&] { scan(asked, "sks"); }).message(),
              HasSubstr("resolution 64 is below dataset.bucket_step"));
}

/// A grey picture of `width` x `height` pixels, white from column `from` on.
void write_mask(const fs::path& path, int width, int height, int from) {
  Picture mask{width, height, {}};
  for (int i = 0; i < width * height; ++i)
    mask.rgb.insert(mask.rgb.end(), 3, i % width < from ? 0 : 255);
  fs::create_directories(path.parent_path());
  as_vips(mask).write_to_file(path.c_str());
}

TEST_F(DatasetTest, masks_belong_to_pictures_by_their_names) {
  picture("p/a.jpg", 80, 64);
  picture("p/b.png", 80, 64);
  write_mask(folder() / "m/a.png", 80, 64, 40);
  DatasetOptions asked = options();
  asked.folders[0].mask = folder() / "m";
  asked.folders[0].unmasked_weight = 0.25;
  const Dataset dataset = scan(asked, "sks");
  ASSERT_TRUE(dataset.examples[0].mask);
  EXPECT_EQ(dataset.examples[0].mask->path, folder() / "m/a.png");
  EXPECT_FALSE(dataset.examples[1].mask);
  EXPECT_THAT(dataset.warnings,
              Contains(AllOf(HasSubstr("b.png: has no mask, so all of it is trained"))));
  // The box is columns 8 to 72: 32 of 64 black, and a cell of 8 columns is one or the other.
  HostTensor counts(DType::f32, {4, 8}), all(DType::f32, {4, 8});
  load_mask(counts.view, dataset.examples[0]);
  load_mask(all.view, dataset.examples[1]);
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(counts.view.as<float>()[i], i % 8 < 4 ? 0.25f : 1.0f) << i;
    EXPECT_EQ(all.view.as<float>()[i], 1.0f);
  }
  // What is trained depends on the mask and on how it is used.
  write_mask(folder() / "m/a.png", 80, 64, 41);
  const std::string hash = scan(asked, "sks").hash;
  EXPECT_NE(hash, dataset.hash);
  asked.folders[0].unmasked_weight = 0.5;
  EXPECT_NE(scan(asked, "sks").hash, hash);
}

TEST_F(DatasetTest, transparency_is_a_mask_where_asked_for) {
  const Picture noise = noise_picture(64, 64, 3);
  vips::VImage alpha = vips::VImage::black(64, 64);  // no transparency of the right half
  alpha = alpha.insert(vips::VImage::black(32, 64) + 255, 32, 0).cast(VIPS_FORMAT_UCHAR);
  fs::create_directories(folder() / "p");
  as_vips(noise)
      .copy(vips::VImage::option()->set("interpretation", VIPS_INTERPRETATION_sRGB))
      .bandjoin(alpha)
      .write_to_file((folder() / "p/a.png").c_str());
  picture("p/b.png");
  DatasetOptions asked = options();
  EXPECT_FALSE(scan(asked, "sks").examples[0].mask);
  asked.folders[0].alpha_mask = true;
  const Dataset dataset = scan(asked, "sks");
  EXPECT_THAT(dataset.warnings, Contains(HasSubstr("b.png: has no transparency")));
  HostTensor counts(DType::f32, {8, 8});
  load_mask(counts.view, dataset.examples[0]);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(counts.view.as<float>()[i], i % 8 < 4 ? 0.0f : 1.0f) << i;
}

TEST_F(DatasetTest, masks_that_cannot_be_used_are_refused) {
  picture("p/a.png", 80, 64);
  DatasetOptions asked = options();
  asked.folders[0].mask = folder() / "m";
  const auto refused = [&] { return error_of([&] { scan(asked, "sks"); }); };
  write_mask(folder() / "m/a.png", 64, 80, 0);
  EXPECT_EQ(refused().message(), "has 64x80 pixels, its picture 80x64");
  write_mask(folder() / "m/a.png", 80, 64, 80);
  EXPECT_EQ(refused().message(), "is a mask that leaves nothing of the trained part");
  write("m/a.png", "no picture");
  EXPECT_EQ(refused().message(), "is not a picture that fluxlora can read");
  asked.folders[0].unmasked_weight = 1;
  EXPECT_EQ(refused().message(), "unmasked_weight is 1");
}

TEST_F(DatasetTest, captions_of_other_trainers_are_read) {
  for (const char* name : {"a", "b", "c", "d", "e"}) picture(std::string("p/") + name + ".png");
  write("p/a.caption", "from kohya");
  write("p/b.json", R"({"caption": "a long one", "caption_short": "short", "other": 1})");
  write("p/metadata.jsonl", R"({"file_name": "c.png", "text": "from the list"}
{"file_name": "d.png", "text": ["one", "two"]}

{"file_name": "a.png", "text": "not this one"}
{"file_name": "gone.png", "text": "nobody's"}
)");
  write("p/other.json", "{}");
  const Dataset dataset = scan(options(), "sks");
  EXPECT_THAT(dataset.examples[0].captions, ElementsAre("sks, from kohya"));
  EXPECT_THAT(dataset.examples[1].captions, ElementsAre("sks, a long one", "sks, short"));
  EXPECT_THAT(dataset.examples[2].captions, ElementsAre("sks, from the list"));
  EXPECT_THAT(dataset.examples[3].captions, ElementsAre("sks, one", "sks, two"));
  EXPECT_THAT(dataset.examples[4].captions, ElementsAre("sks"));
  EXPECT_THAT(dataset.warnings,
              Contains(HasSubstr("no picture belongs to gone.png in metadata.jsonl")));
  EXPECT_THAT(dataset.notes, ElementsAre(HasSubstr("left aside: other.json")));
}

TEST_F(DatasetTest, damaged_captions_of_other_trainers_are_refused) {
  picture("p/a.png");
  const auto refused = [&] { return error_of([&] { scan(options(), "sks"); }); };
  for (const char* text : {"{", "[1]", "\"caption\"", "{\"caption\": 3}"}) {
    write("p/a.json", text);
    EXPECT_THAT(refused().where(), testing::EndsWith("a.json")) << text;
    EXPECT_THAT(refused().hint(), HasSubstr("or remove the file")) << text;
  }
  write("p/a.json", "{}");
  EXPECT_NO_THROW(scan(options(), "sks"));
  for (const char* line :
       {"{", "[]", "{\"text\": \"x\"}", "{\"file_name\": 1, \"text\": \"x\"}",
        "{\"file_name\": \"a.png\"}", "{\"file_name\": \"a.png\", \"text\": [1]}",
        "{\"file_name\": \"a.png\", \"text\": \"\xFF\"}"}) {
    write("p/metadata.jsonl", std::string("{\"file_name\": \"a.png\", \"text\": \"\"}\n") + line);
    EXPECT_THAT(refused().where(), testing::EndsWith("metadata.jsonl:2")) << line;
    EXPECT_EQ(refused().kind(), ErrorKind::bad_input);
  }
  write("p/metadata.jsonl",
        "{\"file_name\": \"a.png\", \"text\": \"" + std::string(100'001, 'x') + "\"}");
  EXPECT_THAT(refused().message(), HasSubstr("longer than 100,000 bytes"));
}

TEST_F(DatasetTest, lines_and_tags_make_several_captions) {
  picture("p/a.png");
  write("p/a.txt", "a {red|blue} car\n\n  a car, grass , sky\n");
  DatasetOptions asked = options();
  EXPECT_THAT(scan(asked, "sks").examples[0].captions,
              ElementsAre("sks, a {red|blue} car a car, grass , sky"));
  asked.folders[0].caption_lines = true;
  EXPECT_THAT(scan(asked, "sks").examples[0].captions,
              ElementsAre("sks, a red car", "sks, a blue car", "sks, a car, grass , sky"));
  asked.folders[0].shuffle_tags = true;
  asked.folders[0].keep_tags = 2;  // the trigger word and one more
  EXPECT_THAT(
      scan(asked, "sks").examples[0].captions,
      testing::UnorderedElementsAre("sks, a red car", "sks, a blue car", "sks, a car, grass , sky",
                                    "sks, a car, grass, sky", "sks, a car, sky, grass"));
  std::string lines;
  for (int i = 0; i < 257; ++i) lines += "line " + std::to_string(i) + "\n";
  write("p/a.txt", lines);
  EXPECT_EQ(error_of([&] { scan(asked, "sks"); }).message(), "has 257 captions, more than 256");
}

TEST_F(DatasetTest, a_name_in_kohyas_manner_is_noted) {
  picture("10_mascot/a.png");
  picture("2024/b.png");
  DatasetOptions asked = options({"10_mascot", "2024"});
  EXPECT_THAT(scan(asked, "sks").notes, ElementsAre(HasSubstr("repeats = 10 would")));
  asked.folders[0].repeats = 10;
  EXPECT_THAT(scan(asked, "sks").notes, testing::IsEmpty());
}

TEST_F(DatasetTest, a_mirrored_picture_has_left_and_right_exchanged) {
  picture("p/a.png", 80, 64);
  write_mask(folder() / "m/a.png", 80, 64, 40);
  DatasetOptions asked = options();
  asked.folders[0].mask = folder() / "m";
  asked.folders[0].flip = true;
  const Dataset dataset = scan(asked, "sks");
  const Example& example = dataset.examples[0];
  EXPECT_TRUE(example.flip);
  const Picture plain = load_pixels(example), mirrored = load_pixels(example, true);
  ASSERT_EQ(mirrored.rgb.size(), plain.rgb.size());
  for (size_t y = 0; y < 64; ++y)
    for (size_t x = 0; x < 64; ++x)
      for (size_t c = 0; c < 3; ++c)
        ASSERT_EQ(mirrored.rgb[(y * 64 + x) * 3 + c], plain.rgb[(y * 64 + 63 - x) * 3 + c]);
  HostTensor counts(DType::f32, {1, 8});
  load_mask(counts.view, example, true);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(counts.view.as<float>()[i], i < 4 ? 1.0f : 0.0f);
  asked.folders[0].flip = false;
  EXPECT_NE(scan(asked, "sks").hash, dataset.hash);
}

TEST_F(DatasetTest, unreadable_things_are_the_environments_fault) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
  const fs::path path = picture("p/a.png");
  write("p/a.txt", "text");
  fs::permissions(folder() / "p/a.txt", fs::perms::none);
  EXPECT_EQ(error_of([&] { scan(options(), "sks"); }).kind(), ErrorKind::environment);
  fs::permissions(folder() / "p/a.txt", fs::perms::all);
  fs::permissions(folder() / "p", fs::perms::none);
  EXPECT_EQ(error_of([&] { scan(options(), "sks"); }).kind(), ErrorKind::environment);
  fs::permissions(folder() / "p", fs::perms::all);
}

}  // namespace
}  // namespace fluxlora
