// SPDX-License-Identifier: Apache-2.0
// Masks: what a file says, and what a cell of the latents gets of it.
#include "data/mask.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <vips/vips8>

#include "data/vips_library.h"
#include "tensor/buffer.h"
#include "unit/data_fixtures.h"

namespace fluxlora {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using vips::VImage;

class MaskTest : public DataTest {
 protected:
  /// One row of numbers as a file.
  template <typename T>
  fs::path row(const std::string& name, std::vector<T> values, VipsBandFormat format,
               int bands = 1) {
    start_vips();
    const int width = static_cast<int>(values.size()) / bands;
    const VImage image =
        VImage::new_from_memory(values.data(), values.size() * sizeof(T), width, 1, bands, format);
    const auto interpretation = bands >= 3                     ? VIPS_INTERPRETATION_sRGB
                                : format == VIPS_FORMAT_USHORT ? VIPS_INTERPRETATION_GREY16
                                                               : VIPS_INTERPRETATION_B_W;
    const fs::path path = folder() / name;
    image.copy(VImage::option()->set("interpretation", interpretation)).write_to_file(path.c_str());
    return path;
  }
};

TEST_F(MaskTest, white_counts_and_black_does_not) {
  const fs::path bytes = row<uint8_t>("a.png", {0, 51, 255}, VIPS_FORMAT_UCHAR);
  EXPECT_THAT(read_mask(bytes).counts, ElementsAre(0.0f, 0.2f, 1.0f));
  const fs::path words = row<uint16_t>("b.png", {0, 13107, 65535}, VIPS_FORMAT_USHORT);
  EXPECT_THAT(read_mask(words).counts, ElementsAre(0.0f, 0.2f, 1.0f));
  const fs::path floats = row<float>("c.tif", {0, 0.5, 1}, VIPS_FORMAT_FLOAT);
  EXPECT_THAT(read_mask(floats).counts, ElementsAre(0.0f, 0.5f, 1.0f));
  const fs::path colours = row<uint8_t>("d.png", {255, 0, 0, 255, 255, 255}, VIPS_FORMAT_UCHAR, 3);
  EXPECT_THAT(read_mask(colours).counts, ElementsAre(1 / 3.0f, 1.0f));
}

TEST_F(MaskTest, alpha_of_a_picture) {
  const fs::path path = row<uint8_t>("a.png", {9, 9, 9, 255, 8, 8, 8, 51}, VIPS_FORMAT_UCHAR, 4);
  const auto alpha = read_alpha(path);
  ASSERT_TRUE(alpha);
  EXPECT_EQ(alpha->width, 2);
  EXPECT_EQ(alpha->height, 1);
  EXPECT_THAT(alpha->counts, ElementsAre(1.0f, 0.2f));
  EXPECT_THAT(read_mask(path).counts, ElementsAre(9 / 255.0f, 8 / 255.0f));
  EXPECT_FALSE(read_alpha(row<uint8_t>("b.png", {1, 2}, VIPS_FORMAT_UCHAR)));
}

TEST_F(MaskTest, numbers_that_are_none_are_refused) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, infinity, -0.1f, 1.5f, 255.0f}) {
    const fs::path path = row<float>("a.tif", {0, 1, bad}, VIPS_FORMAT_FLOAT);
    const Error error = error_of([&] { read_mask(path); });
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    EXPECT_THAT(error.message(), HasSubstr("at column 2, row 0")) << bad;
    EXPECT_THAT(error.hint(), HasSubstr("white where it counts"));
  }
}

TEST_F(MaskTest, damaged_files_are_refused) {
  const fs::path path = row<uint8_t>("a.png", std::vector<uint8_t>(3000, 77), VIPS_FORMAT_UCHAR);
  const std::string sound = read_bytes(path);
  write("cut.png", sound.substr(0, sound.size() / 2));
  EXPECT_EQ(error_of([&] { read_mask(folder() / "cut.png"); }).kind(), ErrorKind::bad_input);
  EXPECT_EQ(error_of([&] { read_mask(folder() / "none.png"); }).message(), "does not exist");
}

/// In double, one pixel after the other: each gives every cell its share of the overlap.
TEST_F(MaskTest, a_cell_is_the_mean_of_the_pixels_below_it) {
  std::mt19937 random(4);
  Mask mask{23, 17, {}};
  for (int i = 0; i < 23 * 17; ++i) mask.counts.push_back(float(random() % 1000) / 999);
  for (const Box& box : {Box{0, 0, 23, 17}, {3, 2, 17, 13}, {5, 5, 4, 4}, {22, 16, 1, 1}}) {
    const int h = 4, w = 6;
    HostTensor y(DType::f32, {h, w});
    average(y.view, mask, box);
    for (int r = 0; r < h; ++r) {
      for (int c = 0; c < w; ++c) {
        const double cell_width = double(box.width) / w, cell_height = double(box.height) / h;
        double sum = 0;
        for (int j = 0; j < mask.height; ++j) {
          for (int i = 0; i < mask.width; ++i) {
            const auto overlap = [](double from, double to, int at) {
              return std::max(0.0, std::min(to, at + 1.0) - std::max(from, double(at)));
            };
            const double left = box.x + c * cell_width, top = box.y + r * cell_height;
            sum += mask.counts[size_t(j * mask.width + i)] * overlap(left, left + cell_width, i) *
                   overlap(top, top + cell_height, j);
          }
        }
        EXPECT_NEAR(y.view.as<float>()[r * w + c], sum / (cell_width * cell_height), 1e-6);
      }
    }
  }
}

}  // namespace
}  // namespace fluxlora
