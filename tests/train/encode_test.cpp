// SPDX-License-Identifier: Apache-2.0
// What a change of pictures, captions or settings makes anew, and what it leaves in the cache.
#include "train/encode.h"

#include "data/dataset.h"
#include "train/run_fixture.h"

namespace fluxlora::train {
namespace {

/// Entries that encoding found and made: "latents and text states: 7 from the cache, 4 made".
struct Counts {
  int64_t found = -1, made = -1;
  bool operator==(const Counts&) const = default;
};

void PrintTo(const Counts& counts, std::ostream* out) {
  *out << counts.found << " found, " << counts.made << " made";
}

class EncodeTest : public testing::Test {
 protected:
  EncodeTest() { paint_dataset(folder_ / "pictures", 3); }

  Counts encoded() {
    RunOptions options = options_;
    const ModelFiles model = open_model(options.model);
    fill_in(options, model);
    std::string last;
    const EncodeHooks hooks{[&](const std::string& line) { last = line; },
                            [](const std::string&) {}, [] { return false; }};
    encode(*device_, model, scan(options.dataset, options.subject.trigger), options, hooks);
    Counts counts;
    std::sscanf(last.c_str(), "latents and text states: %ld from the cache, %ld made",
                &counts.found, &counts.made);
    return counts;
  }
  FolderOptions& pictures() { return options_.dataset.folders[0]; }

  TemporaryFolder folder_;
  std::unique_ptr<Device> device_ = open_device("cpu");
  RunOptions options_ = small_options(folder_.path(), "run");
};

// Three pictures; three captions and the empty one, each for T5 and for CLIP.
TEST_F(EncodeTest, AChangeMakesItsOwnEntriesAnew) {
  EXPECT_EQ(encoded(), (Counts{0, 11}));
  EXPECT_EQ(encoded(), (Counts{11, 0}));
  write_png(folder_ / "pictures/picture_01.png", painted(9, 64, 40));
  EXPECT_EQ(encoded(), (Counts{10, 1})) << "a picture";
  write_file_atomically(folder_ / "pictures/picture_01.txt", std::string_view("another"));
  EXPECT_EQ(encoded(), (Counts{9, 2})) << "a caption";
  options_.dataset.resolution = 80;
  EXPECT_EQ(encoded(), (Counts{8, 3})) << "the size";
  options_.dataset.resolution = 64;
  options_.dataset.buckets = true;  // 80x48 for the 64x40 pixels of one, the square for the others
  options_.dataset.bucket_step = 16;
  EXPECT_EQ(encoded(), (Counts{10, 1})) << "the crop";
  options_.dataset.buckets = false;
  pictures().flip = true;
  EXPECT_EQ(encoded(), (Counts{11, 3})) << "mirrored ones beside the others";
  pictures().flip = false;
  options_.model.text_tokens = 24;
  EXPECT_EQ(encoded(), (Counts{7, 4})) << "T5's tokens, but not CLIP's";
  options_.model.text_tokens = 16;
  options_.model.text_precision = "nf4";
  EXPECT_EQ(encoded(), (Counts{7, 4})) << "T5's weights, but not CLIP's";
  options_.model.text_precision = "f32";
  EXPECT_EQ(encoded(), (Counts{11, 0})) << "what auto is on the CPU";
  options_.model.text_precision = "auto";
  options_.subject.trigger = "zarb";
  EXPECT_EQ(encoded(), (Counts{5, 6})) << "the trigger word, but not the empty caption";
}

TEST_F(EncodeTest, WhatDoesNotTouchPixelsOrWordsMakesNothingAnew) {
  EXPECT_EQ(encoded(), (Counts{0, 11}));
  pictures().weight = 0.5;
  pictures().repeats = 4;
  options_.train.seed = 99;
  options_.lora.rank = 4;
  EXPECT_EQ(encoded(), (Counts{11, 0}));
  // A mask changes the loss, not the latents.
  std::filesystem::create_directories(folder_ / "masks");
  write_png(folder_ / "masks/picture_00.png", painted(3));
  pictures().mask = folder_ / "masks";
  EXPECT_EQ(encoded(), (Counts{11, 0}));
  // The same picture under another name is the same picture.
  std::filesystem::rename(folder_ / "pictures/picture_00.png", folder_ / "pictures/other.png");
  std::filesystem::rename(folder_ / "pictures/picture_00.txt", folder_ / "pictures/other.txt");
  EXPECT_EQ(encoded(), (Counts{11, 0}));
}

TEST_F(EncodeTest, ADamagedEntryIsMadeAgain) {
  encoded();
  int damaged = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_ / "cache")) {
    if (!entry.is_regular_file() || ++damaged > 2) continue;
    std::filesystem::resize_file(entry.path(), entry.file_size() - 1);
  }
  EXPECT_EQ(encoded(), (Counts{9, 2}));
  EXPECT_EQ(encoded(), (Counts{11, 0}));
}

}  // namespace
}  // namespace fluxlora::train
