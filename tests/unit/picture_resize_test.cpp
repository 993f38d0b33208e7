// SPDX-License-Identifier: Apache-2.0
// Crops, sizes, the numbers of the model, contact sheets.
#include <cmath>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "data/resize.h"
#include "tensor/buffer.h"
#include "unit/data_fixtures.h"

namespace fluxlora {
namespace {

TEST(CentreBox, has_the_proportions_of_the_target_and_sits_in_the_middle) {
  EXPECT_EQ(centre_box({300, 200}, {64, 64}), (Box{50, 0, 200, 200}));
  EXPECT_EQ(centre_box({200, 300}, {64, 64}), (Box{0, 50, 200, 200}));
  EXPECT_EQ(centre_box({200, 300}, {200, 300}), (Box{0, 0, 200, 300}));
  EXPECT_EQ(centre_box({1000, 1000}, {96, 64}), (Box{0, 166, 1000, 667}));
  EXPECT_EQ(centre_box({1, 1}, {128, 128}), (Box{0, 0, 1, 1}));
}

TEST(CentreBox, fills_one_side_and_never_leaves_the_picture) {
  std::mt19937 random(1);
  for (int round = 0; round < 5000; ++round) {
    const auto side = [&] { return static_cast<int>(1 + random() % 5000); };
    const Size source{side(), side()}, target{side(), side()};
    const Box box = centre_box(source, target);
    ASSERT_GE(box.x, 0);
    ASSERT_GE(box.y, 0);
    ASSERT_GE(box.width, 1);
    ASSERT_GE(box.height, 1);
    ASSERT_LE(box.x + box.width, source.width);
    ASSERT_LE(box.y + box.height, source.height);
    ASSERT_TRUE(box.width == source.width || box.height == source.height);
    // Equal margins but for an odd pixel.
    ASSERT_LE(std::abs(source.width - box.width - 2 * box.x), 1);
    ASSERT_LE(std::abs(source.height - box.height - 2 * box.y), 1);
  }
}

TEST(Enlargement, is_the_larger_factor) {
  EXPECT_DOUBLE_EQ(enlargement({0, 0, 256, 256}, {128, 128}), 0.5);
  EXPECT_DOUBLE_EQ(enlargement({0, 0, 64, 128}, {128, 128}), 2.0);
}

TEST(Resize, of_the_same_size_is_the_crop_itself) {
  const Picture picture = noise_picture(40, 30, 2);
  const Picture crop = resize(picture, {7, 5, 20, 11}, {20, 11});
  for (int y = 0; y < 11; ++y) {
    for (int x = 0; x < 20 * 3; ++x) {
      ASSERT_EQ(crop.rgb[y * 60 + x], picture.rgb[(y + 5) * 120 + 21 + x]);
    }
  }
}

TEST(Resize, keeps_flat_colour_and_exact_sizes) {
  Picture flat{517, 389, {}};
  for (int i = 0; i < 517 * 389; ++i) flat.rgb.insert(flat.rgb.end(), {13, 200, 255});
  for (const Size size :
       {Size{128, 128}, Size{1, 1}, Size{16, 512}, Size{1000, 700}, Size{517, 3}}) {
    const Picture out = resize(flat, {0, 0, 517, 389}, size);
    ASSERT_EQ(out.width, size.width);
    ASSERT_EQ(out.height, size.height);
    for (size_t i = 0; i < out.rgb.size(); ++i) {
      ASSERT_EQ(out.rgb[i], i % 3 == 0 ? 13 : i % 3 == 1 ? 200 : 255) << size.width;
    }
  }
}

TEST(Resize, any_sizes_work) {
  std::mt19937 random(4);
  for (int round = 0; round < 60; ++round) {
    const Picture picture = noise_picture(1 + random() % 90, 1 + random() % 90, round);
    const Size size{int(1 + random() % 90), int(1 + random() % 90)};
    const Picture out = centre_crop(picture, size);
    ASSERT_EQ(Size({out.width, out.height}), size);
    ASSERT_EQ(out.rgb.size(), size_t(size.width) * size.height * 3);
  }
}

TEST(Resize, a_very_strong_reduction_works) {
  const Picture out = resize(smooth_picture(20000, 24), {0, 0, 20000, 24}, {16, 16});
  EXPECT_EQ(out.width, 16);
  // A wave of 57 pixels averaged over 1,250: nearly its mean, 127.5.
  for (const uint8_t value : out.rgb) EXPECT_NEAR(value, 127.5, 20);
}

TEST(Resize, has_no_aliases) {
  // Stripes of one pixel, black and white, halved three times: only grey is left.
  Picture stripes{256, 64, {}};
  for (int i = 0; i < 256 * 64; ++i) stripes.rgb.insert(stripes.rgb.end(), 3, i % 2 ? 255 : 0);
  const Picture out = resize(stripes, {0, 0, 256, 64}, {32, 8});
  for (int x = 4; x < 28; ++x) EXPECT_NEAR(out.rgb[(4 * 32 + x) * 3], 127.5, 2.5);
}

template <typename T>
void check_round_trip(DType dtype) {
  const Picture picture = noise_picture(19, 23, 8);
  const HostTensor x(dtype, {23, 19, 3});
  pixels_to_model(x.view, picture);
  for (size_t i = 0; i < picture.rgb.size(); ++i) {
    ASSERT_NEAR(x.view.as<T>()[i], picture.rgb[i] / 255.0 * 2 - 1, 1e-6);
  }
  EXPECT_EQ(model_to_pixels(x.view).rgb, picture.rgb);
  EXPECT_EQ(model_to_pixels(x.view).width, 19);
}

TEST(Pixels, go_to_the_model_and_back) {
  check_round_trip<float>(DType::f32);
  check_round_trip<double>(DType::f64);
}

TEST(Pixels, are_rounded_and_clamped) {
  const HostTensor x(DType::f32, {1, 2, 3});
  const float infinite = std::numeric_limits<float>::infinity();
  const float values[6] = {-1.7f, 1.2f, 0.0f, 0.0043f, std::nanf(""), infinite};
  std::copy(values, values + 6, x.view.as<float>());
  // 0 is 127.5: to even, 128. 0.0043 is 128.05.
  EXPECT_EQ(model_to_pixels(x.view).rgb, (std::vector<uint8_t>{0, 255, 128, 128, 0, 0}));
}

TEST(Grid, places_pictures_row_by_row) {
  std::vector<Picture> pictures;
  for (int i = 0; i < 3; ++i) pictures.push_back(noise_picture(10, 6, 20 + i));
  pictures.push_back(noise_picture(4, 2, 30));
  pictures.push_back(noise_picture(10, 6, 31));
  GridOptions options;
  options.columns = 2;
  options.margin = 3;
  const Picture sheet = grid(pictures, options);
  ASSERT_EQ(sheet.width, 3 + 2 * 13);
  ASSERT_EQ(sheet.height, 3 + 3 * 9);
  const auto region = [&](int x, int y, int width, int height) {
    return resize(sheet, {x, y, width, height}, {width, height}).rgb;
  };
  EXPECT_EQ(region(3, 3, 10, 6), pictures[0].rgb);
  EXPECT_EQ(region(16, 3, 10, 6), pictures[1].rgb);
  EXPECT_EQ(region(3, 12, 10, 6), pictures[2].rgb);
  EXPECT_EQ(region(16 + 3, 12 + 2, 4, 2), pictures[3].rgb);
  EXPECT_EQ(region(3, 21, 10, 6), pictures[4].rgb);
  for (const uint8_t value : region(16, 21, 10, 6)) EXPECT_EQ(value, 255);
  for (const uint8_t value : region(0, 0, 29, 3)) EXPECT_EQ(value, 255);
}

TEST(Grid, labels_never_break_the_sheet) {
  const std::vector<Picture> pictures{noise_picture(64, 64, 1), noise_picture(64, 64, 2),
                                      noise_picture(64, 64, 3), noise_picture(64, 64, 4)};
  GridOptions plain;
  plain.columns = 2;
  GridOptions labelled = plain;
  labelled.row_labels = {"before <b>& \"after\"", std::string(300, 'w')};
  const Picture without = grid(pictures, plain), with = grid(pictures, labelled);
  EXPECT_EQ(with.width, without.width);
  EXPECT_GE(with.height, without.height);
  EXPECT_EQ(with.rgb.size(), size_t(with.width) * with.height * 3);
  // The last row of pictures is at the bottom in both.
  const auto bottom = [](const Picture& p) {
    return resize(p, {8, p.height - 72, 64, 64}, {64, 64}).rgb;
  };
  EXPECT_EQ(bottom(with), pictures[2].rgb);
  EXPECT_EQ(bottom(without), pictures[2].rgb);
}

}  // namespace
}  // namespace fluxlora
