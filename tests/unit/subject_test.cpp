// SPDX-License-Identifier: Apache-2.0
// Crops to the subject of drawn pictures whose subject is known.
#include "prepare/subject.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "base/parallel.h"
#include "data/glance.h"
#include "prepare/faces.h"

namespace fluxlora {
namespace {

/// A grey picture with soft grey waves and a red disc with a white spot in `subject`.
Picture disc_on_grey(int width, int height, Box subject) {
  Picture picture{width, height, {}};
  picture.rgb.resize(static_cast<size_t>(width) * height * 3);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      uint8_t* const pixel = &picture.rgb[3 * (static_cast<size_t>(y) * width + x)];
      std::fill_n(pixel, 3, static_cast<uint8_t>(110 + (x / 7 + y / 5) % 20));
      const double dx = (x - subject.x + 0.5) / subject.width - 0.5;
      const double dy = (y - subject.y + 0.5) / subject.height - 0.5;
      const double r2 = dx * dx + dy * dy;
      if (r2 > 0.25) continue;
      pixel[0] = 220;
      pixel[1] = pixel[2] = r2 < 0.01 ? 220 : 30;
    }
  }
  return picture;
}

/// The part of `subject` that lies in `box`.
double held(const Box& box, const Box& subject) {
  const double across =
      std::min(box.x + box.width, subject.x + subject.width) - std::max(box.x, subject.x);
  const double down =
      std::min(box.y + box.height, subject.y + subject.height) - std::max(box.y, subject.y);
  return std::max(0.0, across) * std::max(0.0, down) / subject.width / subject.height;
}

TEST(Subject, AFocusPointComesFirst) {
  SubjectFinder finder;
  const Picture picture = disc_on_grey(400, 200, {20, 60, 80, 80});
  EXPECT_EQ(finder.find(picture, Point{300, 100}).box, (Box{200, 0, 200, 200}));
  EXPECT_EQ(finder.find(picture, Point{220, 100}).box, (Box{120, 0, 200, 200}));
  EXPECT_EQ(finder.find(picture, Point{-50, 1e9}).box, (Box{0, 0, 200, 200}));
  EXPECT_EQ(finder.find(picture, Point{300, 100}).found_by, FoundBy::you);
}

TEST(Subject, IsInTheCropWhereverItStands) {
  SubjectFinder finder;
  for (const int at : {0, 20, 160, 290, 320}) {
    const Box wide{at, 60, 80, 80}, tall{60, at, 80, 80};
    const SubjectCrop across = finder.find(disc_on_grey(400, 200, wide));
    EXPECT_EQ(held(across.box, wide), 1.0) << at;
    EXPECT_EQ(Size(across.box.width, across.box.height), Size(200, 200));
    const SubjectCrop down = finder.find(disc_on_grey(200, 400, tall));
    EXPECT_EQ(held(down.box, tall), 1.0) << at;
    EXPECT_NE(down.found_by, FoundBy::centre);
    EXPECT_NE(down.found_by, FoundBy::you);
  }
}

TEST(Subject, OtherProportionsThanASquare) {
  SubjectFinder finder;
  const Box subject{300, 20, 60, 60};
  const SubjectCrop crop = finder.find(disc_on_grey(400, 400, subject), {}, {3, 4});
  EXPECT_EQ(Size(crop.box.width, crop.box.height), Size(300, 400));
  EXPECT_EQ(held(crop.box, subject), 1.0);
}

TEST(Subject, TheCentreIsForPicturesWithNothingToFindOrToMove) {
  SubjectFinder finder;
  EXPECT_EQ(finder.find(Picture{300, 100, std::vector<uint8_t>(90'000, 77)}).found_by,
            FoundBy::centre);
  EXPECT_EQ(finder.find(disc_on_grey(200, 200, {0, 0, 50, 50})).found_by, FoundBy::centre);
  // One pixel, and the thinnest of pictures.
  EXPECT_EQ(finder.find(Picture{1, 1, {1, 2, 3}}).box, (Box{0, 0, 1, 1}));
  const SubjectCrop thin = finder.find(Picture{3000, 1, std::vector<uint8_t>(9000, 9)});
  EXPECT_EQ(Size(thin.box.width, thin.box.height), Size(1, 1));
}

TEST(Subject, FindersOfSeveralThreadsSayWhatOneSays) {
  const auto picture = [](int64_t i) {
    return disc_on_grey(400, 200, {static_cast<int>(40 * i), 50, 70, 90});
  };
  constexpr int64_t kPictures = 8;
  std::vector<Box> together(kPictures);
  parallel_for(kPictures, 1, [&](int64_t first, int64_t last) {
    SubjectFinder finder;
    for (int64_t i = first; i < last; ++i)
      together[static_cast<size_t>(i)] = finder.find(picture(i)).box;
  });
  SubjectFinder finder;
  for (int64_t i = 0; i < kPictures; ++i) {
    // A product of many threads is cut otherwise than one of a single thread, and may round so.
    EXPECT_NEAR(together[static_cast<size_t>(i)].x, finder.find(picture(i)).box.x, 1) << i;
  }
}

TEST(Faces, AWindowHoldsTheLargestAndCutsNone) {
  EXPECT_EQ(window_around({{40, 60}}, 100, 300), 0);
  EXPECT_EQ(window_around({{140, 160}}, 100, 300), 100);
  EXPECT_EQ(window_around({{290, 300}}, 100, 300), 200);
  // Both fit: in the middle of both.
  EXPECT_EQ(window_around({{100, 130}, {150, 170}}, 100, 300), 85);
  // The second does not fit with the first. From 95 it would be cut, from 90 not.
  EXPECT_EQ(window_around({{120, 170}, {190, 225}}, 100, 300), 90);
  // As wide as the window, and wider: the middle of it.
  EXPECT_EQ(window_around({{50, 150}, {140, 170}}, 100, 300), 50);
  EXPECT_EQ(window_around({{50, 170}}, 100, 300), 60);
}

TEST(Faces, NothingIsNoFace) {
  FaceFinder finder;
  EXPECT_TRUE(finder.find(Picture{1, 1, {1, 2, 3}}).empty());
  EXPECT_TRUE(finder.find(disc_on_grey(400, 200, {100, 50, 100, 100})).empty());
}

TEST(Subject, ALargePictureGivesTheCropOfItsThumbnail) {
  SubjectFinder finder;
  const Picture large = disc_on_grey(3000, 1600, {2300, 500, 500, 500});
  const Picture small = thumbnail(large, {750, 400});
  EXPECT_EQ(small.width, 750);
  EXPECT_NEAR(finder.find(large).box.x, 4 * finder.find(small).box.x, 40);
}

}  // namespace
}  // namespace fluxlora
