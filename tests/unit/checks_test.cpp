// SPDX-License-Identifier: Apache-2.0
// What the pixels of pictures say, and what is wrong with a set of them.
#include "prepare/checks.h"

#include <cmath>
#include <functional>
#include <random>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/resize.h"
#include "unit/data_fixtures.h"

namespace fluxlora::prepare {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Picture grey_picture(int width, int height, const std::function<int(int, int)>& level) {
  Picture picture{width, height, {}};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      picture.rgb.insert(picture.rgb.end(), 3, static_cast<uint8_t>(level(x, y)));
  return picture;
}

Measures of(const Picture& picture) {
  return measure(picture, picture);
}

TEST(Measures, the_laplacian_of_a_checkerboard_is_known) {
  // All four neighbours differ by 100: the Laplacian is +-400, its mean 0 on tiles of even sides.
  const Picture board =
      grey_picture(66, 66, [](int x, int y) { return (x + y) % 2 == 0 ? 50 : 150; });
  EXPECT_NEAR(of(board).sharpness, 160'000, 1);
  EXPECT_NEAR(of(grey_picture(66, 66, [](int x, int y) { return x + y; })).sharpness, 0, 1e-6);
  // One sharp tile is not enough, two are.
  const auto tiles = [](int columns) {
    return grey_picture(66, 66, [columns](int x, int y) {
      return x < 1 + 16 * columns && y < 17 && (x + y) % 2 ? 255 : 0;
    });
  };
  EXPECT_LT(of(tiles(1)).sharpness, 0.1 * of(tiles(2)).sharpness);
}

TEST(Measures, percentiles_of_a_ramp) {
  const Measures m = of(grey_picture(256, 8, [](int x, int) { return x; }));
  EXPECT_NEAR(m.dark, 0.05 * 255, 1);
  EXPECT_NEAR(m.light, 0.95 * 255, 1);
}

TEST(Measures, the_hash_stays_where_the_look_does) {
  const Picture picture = smooth_picture(300, 200);
  const uint64_t hash = perceptual_hash(picture);
  const Picture small = resize(picture, {0, 0, 300, 200}, {90, 70});
  Picture pale = picture;
  for (uint8_t& v : pale.rgb) v = static_cast<uint8_t>(60 + v / 2);
  EXPECT_LE(hash_distance(hash, perceptual_hash(small)), 4);
  EXPECT_LE(hash_distance(hash, perceptual_hash(pale)), 2);
  // Signs of independent noise differ in 32 +- 4 places: within five deviations.
  for (unsigned seed = 0; seed < 8; ++seed)
    EXPECT_NEAR(hash_distance(perceptual_hash(noise_picture(32, 32, seed)),
                              perceptual_hash(noise_picture(32, 32, seed + 100))),
                32, 20);
  // A single wave along x: of all signs but its own the cosine is 0.
  const Picture wave = grey_picture(32, 32, [](int x, int) {
    return static_cast<int>(std::lround(128 + 100 * std::cos(M_PI * 3 * (2 * x + 1) / 64)));
  });
  EXPECT_TRUE(perceptual_hash(wave) >> 3 & 1);
  EXPECT_FALSE(
      perceptual_hash(grey_picture(
          32, 32, [&](int x, int) { return 255 - wave.rgb[static_cast<size_t>(x) * 3]; })) >>
          3 &
      1);
}

TEST(Measures, the_border_goes_clockwise_from_the_top_left) {
  // Rows of colour by the eighth that they lie in.
  const Measures m = of(grey_picture(256, 256, [](int x, int y) { return y / 32 * 8 + x / 32; }));
  for (int i = 0; i < 7; ++i) {
    EXPECT_NEAR(m.border[3 * i], i, 1);                  // top row, left to right
    EXPECT_NEAR(m.border[3 * (7 + i)], 8 * i + 7, 1);    // right column, downwards
    EXPECT_NEAR(m.border[3 * (14 + i)], 56 + 7 - i, 1);  // bottom row, right to left
    EXPECT_NEAR(m.border[3 * (21 + i)], 56 - 8 * i, 1);  // left column, upwards
  }
}

/// A set of pictures with nothing wrong, to be spoilt.
class Checks : public DataTest {
 protected:
  Checks() {
    for (int i = 0; i < 12; ++i) {
      Candidate c;
      c.path = write(fmt::format("p{}.jpg", i), std::string(1 + i, 'x'));
      c.source = {1600, 1200};
      c.used = {200, 0, 1200, 1200};
      c.size = {1024, 1024};
      std::mt19937_64 random(i);
      c.measures = {500, 20, 230, random(), random(), {}};
      for (uint8_t& v : c.measures.border) v = static_cast<uint8_t>(random());
      set_.push_back(c);
    }
  }
  std::vector<std::string> kinds() const {
    std::vector<std::string> kinds;
    for (const Finding& finding : check(set_)) kinds.push_back(finding.kind);
    return kinds;
  }
  std::vector<Candidate> set_;
};

TEST_F(Checks, nothing_is_wrong_with_a_good_set) {
  EXPECT_THAT(kinds(), IsEmpty());
}

TEST_F(Checks, the_number_of_pictures) {
  set_.resize(9);
  ASSERT_THAT(kinds(), ElementsAre("few"));
  EXPECT_EQ(
      check(set_)[0].line(),
      "9 pictures of the subject: with fewer than 10 the LoRA tends to repeat them; add some: "
      "10 to 30 are best");
  const std::vector<Candidate> nine = set_;
  while (set_.size() <= 30) set_.insert(set_.end(), nine.begin(), nine.end());
  EXPECT_THAT(kinds(), testing::Contains("many"));
}

TEST_F(Checks, one_picture_at_a_time) {
  set_[0].used = {0, 0, 512, 512};
  set_[1].measures.light = 60;
  set_[2].measures.dark = 200;
  set_[3].measures.dark = 220;
  set_[3].measures.light = 230;
  set_[4].measures.dark = 100;
  set_[4].measures.light = 120;
  set_[5].measures.sharpness = 12;
  set_[6].source = {6000, 2000};
  EXPECT_THAT(kinds(),
              ElementsAre("small", "dark", "bright", "bright", "flat", "blurred", "shape"));
  const std::vector<Finding> findings = check(set_);
  EXPECT_EQ(findings[0].line(),
            "p0.jpg: its 512x512 pixels are enlarged 2.0 times to 1024x1024; use a larger picture, "
            "a larger box or a smaller resolution");
  EXPECT_THAT(findings[6].line(), HasSubstr("is 3.0 times as wide as high: the crop shows 12 %"));
  // What is enlarged is soft: that is said once.
  set_[0].measures.sharpness = 1;
  EXPECT_EQ(kinds().size(), 7u);
}

TEST_F(Checks, duplicates_by_bytes_and_by_look) {
  for (int i : {3, 5}) set_[i].measures = set_[1].measures;
  set_[8].measures = set_[7].measures;
  set_[8].measures.whole ^= 0b1011;  // of a burst
  write("p7.jpg", "same");
  write("p8.jpg", "same");
  const std::vector<Finding> findings = check(set_);
  ASSERT_THAT(kinds(), ElementsAre("similar", "duplicate"));
  EXPECT_THAT(findings[0].pictures, ElementsAre("p1.jpg", "p3.jpg", "p5.jpg"));
  EXPECT_THAT(findings[1].pictures, ElementsAre("p7.jpg", "p8.jpg"));
}

TEST_F(Checks, one_background_or_pose_in_most) {
  for (int i = 1; i < 8; ++i) set_[i].measures.border = set_[0].measures.border;
  ASSERT_THAT(kinds(), ElementsAre("background"));
  EXPECT_THAT(check(set_)[0].line(),
              HasSubstr("p0.jpg, p1.jpg, p2.jpg, p3.jpg and 4 more: 8 of 12 pictures have the same "
                        "background"));
  for (int i = 1; i < 8; ++i) set_[i].measures.crop = set_[0].measures.crop ^ (0xfULL << 4 * i);
  EXPECT_THAT(kinds(), ElementsAre("background", "pose"));
  set_[7].measures.border.fill(0);
  set_[7].measures.crop = ~set_[0].measures.crop;
  EXPECT_THAT(kinds(), IsEmpty());  // 7 of 12 are not most
}

/// As `train` does at its start.
class DatasetChecks : public DataTest {
 protected:
  std::vector<std::string> lines(int64_t resolution) {
    DatasetOptions options;
    options.folders.emplace_back();
    options.folders[0].path = folder();
    options.folders[0].resolutions = {32, resolution};
    std::vector<std::string> lines;
    for (const Finding& finding : check(scan(options, "sks"))) lines.push_back(finding.line());
    return lines;
  }
};

TEST_F(DatasetChecks, a_dataset_is_checked_at_its_largest_size) {
  for (unsigned i = 0; i < 10; ++i)
    write_png(folder() / fmt::format("p{}.png", i), noise_picture(64 + 8 * i, 64, i));
  // The mean of noise is grey in all of them.
  EXPECT_THAT(lines(64), ElementsAre(HasSubstr("10 of 10 pictures have the same background")));
  fs::copy(folder() / "p1.png", folder() / "q.png");
  EXPECT_THAT(lines(64), testing::Contains(HasSubstr("p1.png, q.png: are the same picture")));
  EXPECT_THAT(lines(96), testing::Contains(HasSubstr("p3.png: its 64x64 pixels are enlarged 1.5")));
}

TEST(Findings, names_cannot_garble_the_terminal) {
  EXPECT_EQ(shown_name("a\nb\x1b[2J.jpg"), "a?b?[2J.jpg");
  EXPECT_EQ(shown_name("caf\xe9.jpg"), "caf?.jpg");
  EXPECT_EQ(shown_name("caf\u00e9.jpg"), "caf\u00e9.jpg");
}

}  // namespace
}  // namespace fluxlora::prepare
