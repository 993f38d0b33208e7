// SPDX-License-Identifier: Apache-2.0
// Picture files of every kind, sound and broken.
#include "data/picture.h"

#include <cmath>
#include <fstream>
#include <random>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vips/vips8>

#include "base/error.h"
#include "base/parallel.h"
#include "data/vips_library.h"
#include "unit/data_fixtures.h"

namespace fluxlora {
namespace {

using vips::VImage;

class PictureTest : public DataTest {
 protected:
  /// Saves with libvips' own writer of the ending.
  fs::path save(const std::string& name, const VImage& image, vips::VOption* options = nullptr) {
    const fs::path path = folder() / name;
    image.write_to_file(path.c_str(), options);
    return path;
  }
  VImage smooth_image(int width, int height) {
    smooth_ = smooth_picture(width, height);
    return as_vips(smooth_);
  }
  Picture smooth_;
};

double mean_difference(const Picture& a, const Picture& b) {
  EXPECT_EQ(a.width, b.width);
  EXPECT_EQ(a.height, b.height);
  double sum = 0;
  for (size_t i = 0; i < a.rgb.size(); ++i) sum += std::abs(int(a.rgb[i]) - int(b.rgb[i]));
  return sum / static_cast<double>(a.rgb.size());
}

TEST_F(PictureTest, lossless_formats_come_back_exactly) {
  const VImage image = smooth_image(61, 37);
  for (const char* name : {"a.png", "a.tif", "without_ending"}) {
    const fs::path path = folder() / name;
    image.write_to_file((folder() / "x.png").c_str());
    if (std::string(name) == "a.tif") {
      image.write_to_file(path.c_str());
    } else {
      fs::copy_file(folder() / "x.png", path);
    }
    const Picture read = read_picture(path);
    EXPECT_EQ(read.width, 61);
    EXPECT_EQ(read.height, 37);
    EXPECT_EQ(read.rgb, smooth_.rgb) << name;
  }
  const fs::path webp = save("a.webp", image, VImage::option()->set("lossless", true));
  EXPECT_EQ(read_picture(webp).rgb, smooth_.rgb);
}

TEST_F(PictureTest, lossy_formats_come_back_nearly) {
  const VImage image = smooth_image(64, 48);
  const fs::path jpeg = save("a.jpg", image, VImage::option()->set("Q", 95));
  const fs::path webp = save("a.webp", image, VImage::option()->set("Q", 95));
  EXPECT_LT(mean_difference(read_picture(jpeg), smooth_), 3.0);  // what quality 95 loses
  EXPECT_LT(mean_difference(read_picture(webp), smooth_), 3.0);
}

TEST_F(PictureTest, content_decides_not_the_name) {
  const fs::path jpeg = save("a.jpg", smooth_image(64, 48));
  const fs::path renamed = folder() / "really a jpeg [page=3].png";
  fs::copy_file(jpeg, renamed);
  EXPECT_EQ(read_picture(renamed).rgb, read_picture(jpeg).rgb);
}

TEST_F(PictureTest, header_agrees_with_the_pixels_for_every_orientation) {
  for (int tag = 1; tag <= 8; ++tag) {
    VImage image = smooth_image(40, 24).copy();
    image.set("orientation", tag);
    const fs::path path = save("turned.jpg", image);
    const Picture picture = read_picture(path);
    const PictureInfo info = read_picture_info(path);
    EXPECT_EQ(info.width, tag >= 5 ? 24 : 40) << tag;
    EXPECT_EQ(info.width, picture.width) << tag;
    EXPECT_EQ(info.height, picture.height) << tag;
    EXPECT_EQ(info.frames, 1);
  }
}

TEST_F(PictureTest, transparency_shows_the_background) {
  // Left half opaque red, right half fully transparent blue.
  Picture colours{4, 2, {}};
  std::vector<uint8_t> alpha;
  for (int i = 0; i < 8; ++i) {
    const bool left = i % 4 < 2;
    for (const int v : {left ? 255 : 0, 0, left ? 0 : 255}) colours.rgb.push_back(uint8_t(v));
    alpha.push_back(left ? 255 : 0);
  }
  const VImage mask =
      VImage::new_from_memory(alpha.data(), alpha.size(), 4, 2, 1, VIPS_FORMAT_UCHAR);
  const fs::path path = save("a.png", as_vips(colours).bandjoin(mask));
  const Picture white = read_picture(path);
  ReadOptions green;
  green.background = {10, 200, 30};
  const Picture coloured = read_picture(path, green);
  const auto pixel = [](const Picture& p, int x) {
    return std::vector<int>{p.rgb[3 * x], p.rgb[3 * x + 1], p.rgb[3 * x + 2]};
  };
  EXPECT_EQ(pixel(white, 0), (std::vector<int>{255, 0, 0}));
  EXPECT_EQ(pixel(white, 3), (std::vector<int>{255, 255, 255}));
  EXPECT_EQ(pixel(coloured, 1), (std::vector<int>{255, 0, 0}));
  EXPECT_EQ(pixel(coloured, 2), (std::vector<int>{10, 200, 30}));
}

TEST_F(PictureTest, grey_and_16_bit_become_8_bit_rgb) {
  const VImage image = smooth_image(32, 32);
  const VImage grey =
      image[1].copy(VImage::option()->set("interpretation", VIPS_INTERPRETATION_B_W));
  const VImage deep = (image * 257)
                          .cast(VIPS_FORMAT_USHORT)
                          .copy(VImage::option()->set("interpretation", VIPS_INTERPRETATION_RGB16));
  const Picture from_grey = read_picture(save("grey.png", grey));
  for (size_t i = 0; i < from_grey.rgb.size(); ++i) {
    ASSERT_EQ(from_grey.rgb[i], smooth_.rgb[i / 3 * 3 + 1]);
  }
  EXPECT_EQ(read_picture(save("deep.png", deep)).rgb, smooth_.rgb);
}

TEST_F(PictureTest, several_frames_give_the_first_and_a_warning) {
  // libvips writes an animation when a page height is set.
  const Picture second = noise_picture(16, 16, 7);
  VImage frames = smooth_image(16, 16).join(as_vips(second), VIPS_DIRECTION_VERTICAL).copy();
  frames.set("page-height", 16);
  const fs::path path = save("moving.webp", frames, VImage::option()->set("lossless", true));
  std::vector<std::string> warnings;
  ReadOptions options;
  options.warnings = &warnings;
  EXPECT_EQ(read_picture(path, options).rgb, smooth_.rgb);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_THAT(warnings[0], testing::EndsWith("moving.webp: has 2 frames, the first is used"));
  EXPECT_EQ(read_picture_info(path).frames, 2);
}

TEST_F(PictureTest, a_broken_profile_is_left_out_with_a_warning) {
  VImage image = smooth_image(16, 16).copy();
  std::string nonsense = "this is no colour profile, whatever the tag says";
  vips_image_set_blob_copy(image.get_image(), VIPS_META_ICC_NAME, nonsense.data(), nonsense.size());
  const fs::path path = save("profile.tif", image);
  std::vector<std::string> warnings;
  ReadOptions options;
  options.warnings = &warnings;
  EXPECT_EQ(read_picture(path, options).rgb, smooth_.rgb);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_THAT(warnings[0],
              testing::EndsWith("profile.tif: its colour profile cannot be used and is left out"));
}

TEST_F(PictureTest, one_pixel_is_a_picture) {
  const Picture read = read_picture(save("dot.png", smooth_image(1, 1)));
  EXPECT_EQ(read.width, 1);
  EXPECT_EQ(read.rgb.size(), 3u);
}

TEST_F(PictureTest, what_is_no_picture_is_refused) {
  const fs::path missing = folder() / "missing.png";
  EXPECT_EQ(error_of([&] { read_picture(missing); }).message(), "does not exist");
  const fs::path inside = folder() / "folder.png";
  fs::create_directory(inside);
  EXPECT_EQ(error_of([&] { read_picture(inside); }).message(), "is a folder, not a picture");
  EXPECT_EQ(error_of([&] { read_picture(write("zero.png", "")); }).message(), "is empty (0 bytes)");
  const fs::path text = write("text.png", "just a few words, 1,2,3\n4,5,6\n");
  const Error error = error_of([&] { read_picture(text); });
  EXPECT_EQ(error.kind(), ErrorKind::bad_input);
  EXPECT_EQ(error.where(), text.string());
  EXPECT_EQ(error.message(), "is not a picture that fluxlora can read");
  const fs::path svg = write("drawing.png",
                             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"9\" "
                             "height=\"9\"><rect width=\"9\" height=\"9\"/></svg>");
  EXPECT_EQ(error_of([&] { read_picture(svg); }).message(), error.message());
  const fs::path pipe = folder() / "pipe.png";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(error_of([&] { read_picture(pipe); }).message(), "is not an ordinary file");
}

TEST_F(PictureTest, a_file_without_permission_is_the_environments_fault) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
  const fs::path path = save("secret.png", smooth_image(8, 8));
  fs::permissions(path, fs::perms::none);
  EXPECT_EQ(error_of([&] { read_picture(path); }).kind(), ErrorKind::environment);
}

/// Every cut of a file is refused, wherever it falls.
TEST_F(PictureTest, truncated_files_are_refused) {
  const Picture noise = noise_picture(96, 64, 3);
  for (const char* name : {"a.jpg", "a.png", "a.webp", "a.tif", "a.gif"}) {
    const fs::path path = save(name, as_vips(noise));
    const std::string bytes = read_bytes(path);
    for (const double share : {0.02, 0.3, 0.6, 0.9, 0.97}) {
      const auto length = static_cast<size_t>(share * static_cast<double>(bytes.size()));
      const fs::path cut = write(std::string("cut_") + name, bytes.substr(0, length));
      EXPECT_THROW(read_picture(cut), Error) << name << " cut to " << share;
    }
    EXPECT_NO_THROW(read_picture(path)) << name;
  }
}

/// Flipped bytes: an Error or a picture, never a crash (the sanitizer build looks closer).
TEST_F(PictureTest, damaged_files_never_crash) {
  std::mt19937 random(11);
  for (const char* name : {"a.jpg", "a.png", "a.webp", "a.tif", "a.gif"}) {
    const std::string bytes = read_bytes(save(name, smooth_image(48, 32)));
    for (int round = 0; round < 40; ++round) {
      std::string broken = bytes;
      for (int i = 0; i < 4; ++i) broken[random() % broken.size()] = static_cast<char>(random());
      const fs::path path = write("broken", broken);
      try {
        const Picture picture = read_picture(path);
        EXPECT_EQ(picture.rgb.size(), size_t(picture.width) * picture.height * 3);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      }
    }
  }
}

TEST_F(PictureTest, bombs_are_refused_from_the_header) {
  // The header says 60000x60000, which would be 10.8 GB.
  const fs::path path = write("bomb.png", png_header(60000, 60000));
  const Error error = error_of([&] { read_picture(path); });
  EXPECT_EQ(error.kind(), ErrorKind::bad_input);
  EXPECT_EQ(error.message(), "has 60000x60000 pixels, more than the limit of 200 megapixels");
  ReadOptions small;
  small.max_pixels = 100;
  EXPECT_THROW(read_picture(save("a.png", smooth_image(11, 10)), small), Error);
  EXPECT_NO_THROW(read_picture(save("a.png", smooth_image(10, 10)), small));
}

TEST_F(PictureTest, nothing_reaches_stderr) {
  const std::string bytes = read_bytes(save("a.jpg", smooth_image(64, 64)));
  const fs::path cut = write("cut.jpg", bytes.substr(0, bytes.size() / 2));
  std::string odd = bytes;
  odd.insert(2,
             "\xFF\xEE\x00\x06"
             "junk",
             8);  // an APP14 that is not Adobe's
  const fs::path marked = write("odd.jpg", odd);
  testing::internal::CaptureStderr();
  EXPECT_THROW(read_picture(cut), Error);
  read_picture(marked);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(PictureTest, threads_read_side_by_side) {
  std::vector<fs::path> paths;
  std::vector<std::vector<uint8_t>> pixels(12);
  for (int i = 0; i < 12; ++i) {
    paths.push_back(save(std::to_string(i) + ".png", as_vips(noise_picture(50 + i, 40, 100 + i))));
  }
  parallel_for(12, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) pixels[i] = read_picture(paths[i]).rgb;
  });
  for (int i = 0; i < 12; ++i) EXPECT_EQ(pixels[i], noise_picture(50 + i, 40, 100 + i).rgb);
}

TEST_F(PictureTest, png_files_are_exact_and_repeatable) {
  const Picture picture = noise_picture(33, 21, 5);
  const fs::path path = folder() / "out.png";
  write_png(path, picture);
  EXPECT_EQ(read_picture(path).rgb, picture.rgb);
  const std::string once = read_bytes(path);
  write_png(path, picture);
  EXPECT_EQ(read_bytes(path), once);
  const std::vector<uint8_t> bytes = encode_png(picture);
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), once);
  EXPECT_EQ(once.find("tIME"), std::string::npos);
  EXPECT_EQ(error_of([&] { write_png(folder() / "no such folder" / "x.png", picture); }).kind(),
            ErrorKind::environment);
}

}  // namespace
}  // namespace fluxlora
