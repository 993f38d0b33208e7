// SPDX-License-Identifier: Apache-2.0
// From a folder of pictures to a dataset folder: crops, captions, crop.json that a person edits.
#include "prepare/prepare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/caption.h"
#include "unit/data_fixtures.h"

namespace fluxlora::prepare {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class PrepareTest : public DataTest {
 protected:
  PrepareTest() { fs::create_directories(photos()); }
  fs::path photos() const { return folder() / "photos"; }
  fs::path dataset() const { return folder() / "dataset"; }
  fs::path crop_file() const { return dataset() / "crop.json"; }

  /// A picture of noise: every crop of it can be told from every other.
  Picture picture(const std::string& name, int width = 160, int height = 96) {
    const Picture noise = noise_picture(width, height, ++seed_);
    write_png(photos() / name, noise);
    return noise;
  }
  Options options() const {
    Options options;
    options.pictures = photos();
    options.output = dataset();
    options.resolution = 64;
    return options;
  }
  /// The whole job.
  Report run(const Options& options) {
    Preparation preparation(options);
    preparation.look();
    return preparation.write();
  }
  nlohmann::ordered_json crops() const {
    return nlohmann::ordered_json::parse(read_bytes(crop_file()))["pictures"];
  }
  void write_crops(const std::string& entries) const {
    write("dataset/crop.json", "{\"pictures\": {" + entries + "}}");
  }
  std::vector<std::string> names(const fs::path& in) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(in)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  unsigned seed_ = 0;
};

TEST_F(PrepareTest, writes_crops_captions_and_boxes) {
  const Picture a = picture("a.png");
  picture("b.png", 64, 64);
  write("photos/a.txt", "a red car");
  Options asked = options();
  asked.trigger = "zorb";
  const Report report = run(asked);
  EXPECT_THAT(names(dataset()), ElementsAre("a.png", "a.txt", "b.png", "b.txt", "contact_sheet.png",
                                            "crop.json", "dataset.html"));
  EXPECT_EQ(read_caption(dataset() / "a.txt"), "zorb, a red car");
  EXPECT_EQ(read_caption(dataset() / "b.txt"), "zorb");
  ASSERT_EQ(report.pictures.size(), 2u);
  const Box box = report.pictures[0].used;
  EXPECT_EQ((Size{box.width, box.height}), (Size{96, 96}));
  EXPECT_EQ(read_picture(dataset() / "a.png").rgb, resize(a, box, {64, 64}).rgb);
  EXPECT_EQ(crops()["a.png"]["box"]["x"], box.x);
  EXPECT_EQ(crops()["a.png"]["found_by"], report.pictures[0].crop.found_by);
}

TEST_F(PrepareTest, an_edited_box_is_kept) {
  const Picture a = picture("a.png");
  run(options());
  auto edited = nlohmann::ordered_json::parse(read_bytes(crop_file()));
  const auto found = edited["pictures"]["a.png"]["box"];
  edited["pictures"]["a.png"]["box"] = {{"x", 3}, {"y", 5}, {"width", 70}, {"height", 70}};
  write("dataset/crop.json", edited.dump());
  for (int again = 0; again < 2; ++again) {
    run(options());
    EXPECT_EQ(crops()["a.png"]["box"], edited["pictures"]["a.png"]["box"]);
    EXPECT_EQ(crops()["a.png"]["found_by"], "you");
    EXPECT_EQ(read_picture(dataset() / "a.png").rgb, resize(a, {3, 5, 70, 70}, {64, 64}).rgb);
  }
  // Without the entry the subject is found again.
  write_crops("");
  run(options());
  EXPECT_EQ(crops()["a.png"]["box"], found);
}

TEST_F(PrepareTest, a_focus_moves_the_box_and_is_remembered) {
  picture("a.png");
  Options asked = options();
  asked.focus["a.png"] = {150, 48};
  EXPECT_EQ(run(asked).pictures[0].used, (Box{64, 0, 96, 96}));
  EXPECT_EQ(crops()["a.png"]["found_by"], "you");
  EXPECT_EQ(run(options()).pictures[0].used, (Box{64, 0, 96, 96}));
}

TEST_F(PrepareTest, buckets_keep_the_shape_of_the_picture_or_of_the_box) {
  picture("wide.png", 160, 96);  // 5:3, as 320 x 192 is
  picture("tall.png", 100, 180);
  Options asked = options();
  asked.resolution = 256;
  asked.buckets = true;
  asked.focus["tall.png"] = {50, 179};
  const Report report = run(asked);
  EXPECT_EQ(report.pictures[1].size, (Size{320, 192}));
  EXPECT_EQ(report.pictures[1].used, (Box{0, 0, 160, 96}));
  // 192 x 320 is nearest to 5:9: all of the width, and the end that has the focus.
  EXPECT_EQ(report.pictures[0].size, (Size{192, 320}));
  EXPECT_EQ(report.pictures[0].used, (Box{0, 13, 100, 167}));
  const Picture written = read_picture(dataset() / "tall.png");
  EXPECT_EQ((Size{written.width, written.height}), (Size{192, 320}));

  write_crops(R"("wide.png": {"box": {"x": 30, "y": 0, "width": 90, "height": 90}})");
  const Report edited = run(asked);
  EXPECT_EQ(edited.pictures[1].size, (Size{256, 256}));
  EXPECT_EQ(edited.pictures[1].used, (Box{30, 0, 90, 90}));
}

TEST_F(PrepareTest, captions_stay_unless_asked) {
  picture("a.png");
  write("photos/a.txt", "from the source");
  run(options());
  write("dataset/a.txt", "by hand");
  EXPECT_EQ(run(options()).pictures[0].caption, "by hand");
  EXPECT_EQ(read_caption(dataset() / "a.txt"), "by hand");
  Options asked = options();
  asked.overwrite_captions = true;
  run(asked);
  EXPECT_EQ(read_caption(dataset() / "a.txt"), "from the source");
}

TEST_F(PrepareTest, what_cannot_be_used_is_left_out_with_a_finding) {
  picture("good.png");
  picture("small.png", 12, 40);
  picture("told.png");
  write("photos/text.jpg", "no picture at all");
  write("photos/told.txt", "caf\xe9");
  const Report report = run(options());
  ASSERT_EQ(report.pictures.size(), 1u);
  EXPECT_THAT(names(dataset()),
              ElementsAre("contact_sheet.png", "crop.json", "dataset.html", "good.png"));
  std::vector<std::string> lines;
  for (const Finding& finding : report.findings)
    if (finding.left_out) lines.push_back(finding.line());
  EXPECT_THAT(lines, ElementsAre(HasSubstr("small.png: its 12x12 pixels are too few: they would be "
                                           "enlarged 5.3 times to 64x64, so it is left out"),
                                 HasSubstr("text.jpg: is not a picture"),
                                 HasSubstr("told.txt is not UTF-8")));
}

TEST_F(PrepareTest, one_stem_in_two_formats_gets_two_names) {
  picture("a.png");
  fs::copy(photos() / "a.png", photos() / "a.jpg");
  picture("b.png");
  EXPECT_EQ(run(options()).pictures.size(), 3u);
  EXPECT_THAT(names(dataset()), ElementsAre("a.jpg.png", "a.png.png", "b.png", "contact_sheet.png",
                                            "crop.json", "dataset.html"));
}

TEST_F(PrepareTest, who_only_looks_leaves_nothing) {
  picture("a.png");
  {
    Preparation(options()).look();
  }
  EXPECT_FALSE(fs::exists(dataset()));
  write("photos/a.png", "broken");
  error_of([&] { Preparation(options()).look(); });
  EXPECT_FALSE(fs::exists(dataset()));
}

TEST_F(PrepareTest, bad_folders_and_files_are_errors) {
  picture("a.png");
  const auto says = [&](const Options& o) {
    const Error error = error_of([&] { Preparation(o).look(); });
    return error.two_lines();
  };
  Options same = options();
  same.output = photos();
  EXPECT_THAT(says(same), HasSubstr("is the folder of the pictures themselves"));
  Options missing = options();
  missing.pictures = folder() / "nowhere";
  EXPECT_THAT(says(missing), HasSubstr("does not exist"));
  Options unknown = options();
  unknown.focus["b.png"] = {1, 1};
  EXPECT_THAT(says(unknown), HasSubstr("--focus b.png: names no picture"));
  Options odd = options();
  odd.resolution = 100;
  EXPECT_THAT(says(odd), HasSubstr("--resolution: is 100"));

  fs::create_directories(dataset());
  const std::pair<const char*, const char*> files[] = {
      {"\"a.png\": 3", "\"a.png\" is no object"},
      {"\"a.png\": {\"box\": []}", "has a box that is no object"},
      {"\"a.png\": {\"box\": {\"x\": 1, \"y\": 1, \"width\": 9}}", "without the number height"},
      {"\"a.png\": {\"box\": {\"x\": 1, \"y\": 1, \"width\": 9, \"height\": 1e99}}",
       "no coordinate"},
      {"\"a.png\": {\"box\": {\"x\": -1, \"y\": 1, \"width\": 9, \"height\": 9}}",
       "begins outside"},
      {"\"a.png\": {\"box\": {\"x\": 100, \"y\": 1, \"width\": 99, \"height\": 9}}",
       "leaves its picture of 160x96 pixels"},
      {"\"a.png\": ", "is not JSON"}};
  for (const auto& [entries, expected] : files) {
    write_crops(entries);
    EXPECT_THAT(says(options()), HasSubstr(expected)) << entries;
  }
  fs::remove(crop_file());
  write("dataset/other.txt", "x");
  EXPECT_THAT(says(options()), HasSubstr("holds files, but no crop.json"));
}

TEST(FitBox, grows_to_the_proportions_and_stays_inside) {
  // Grown around its middle, so that all of it is kept.
  EXPECT_EQ(fit_box({40, 30, 20, 40}, {1, 1}, {200, 100}), (Box{30, 30, 40, 40}));
  EXPECT_EQ(fit_box({40, 30, 40, 20}, {1, 1}, {200, 100}), (Box{40, 20, 40, 40}));
  // Moved away from the edge.
  EXPECT_EQ(fit_box({0, 0, 20, 40}, {1, 1}, {200, 100}), (Box{0, 0, 40, 40}));
  EXPECT_EQ(fit_box({180, 60, 20, 40}, {1, 1}, {200, 100}), (Box{160, 60, 40, 40}));
  // No larger than the picture.
  EXPECT_EQ(fit_box({20, 0, 150, 100}, {1, 1}, {200, 100}), (Box{45, 0, 100, 100}));
  EXPECT_EQ(fit_box({40, 30, 20, 20}, {2, 1}, {200, 100}), (Box{30, 30, 40, 20}));
}

}  // namespace
}  // namespace fluxlora::prepare
