// SPDX-License-Identifier: Apache-2.0
// A run from pictures to a LoRA, and what its folder holds.
#include "base/error.h"
#include "tensor/safetensors.h"
#include "train/generate.h"
#include "train/previews.h"
#include "train/run_fixture.h"
#include "unit/expect_error.h"

namespace fluxlora::train {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Run, LeavesWhatItPromises) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 5);
  RunOptions options = small_options(folder.path(), "run");
  options.sample.every = 4;
  Ears ears;
  const Outcome outcome = train_run(options, ears);
  EXPECT_FALSE(outcome.stopped);
  EXPECT_EQ(outcome.step, 6);
  ASSERT_EQ(ears.steps.size(), 6u);
  for (const auto& step : ears.steps) {
    EXPECT_GT(step.loss, 0);
    EXPECT_GT(step.grad_norm, 0);
    EXPECT_THAT(step.timesteps.size(), ::testing::AnyOf(1u, 2u));
  }
  const RunPaths paths = run_paths(options);
  EXPECT_THAT(step_folders(paths.checkpoints()), ElementsAre(2, 4, 6));
  EXPECT_THAT(step_folders(paths.samples()), ElementsAre(0, 4, 6));
  for (const fs::path& file : {paths.lora(), paths.metrics(), paths.config(), paths.log(),
                               paths.report(), paths.before_after()})
    EXPECT_TRUE(file_exists(file)) << file;
  // The checks of `fluxlora prepare`.
  EXPECT_THAT(bytes_of(paths.report()), HasSubstr("5 pictures of the subject: with fewer than 10"));
  EXPECT_THAT(ears.notes, Contains(HasSubstr("trigger word \"zorb\": ")));
  const SafetensorsFile lora(paths.lora());
  EXPECT_EQ(lora.metadata().at("fluxlora.trigger"), "zorb");
  EXPECT_EQ(bytes_of(paths.lora()), bytes_of(paths.checkpoint(6) / "lora.safetensors"));
}

// The result of a run is a LoRA of its own; as another run's assistant it changes what is learnt,
// and not what is painted before the first step.
TEST(Run, AnAssistantIsOnForStepsAndOffForSamples) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  RunOptions options = small_options(folder.path(), "first");
  options.sample.every = 4;
  Ears first, second;
  train_run(options, first);
  RunOptions assisted = options;
  assisted.output.path = folder / "second";
  assisted.model.assistant_lora = run_paths(options).lora();
  train_run(assisted, second);
  ASSERT_EQ(second.steps.size(), first.steps.size());
  EXPECT_NE(second.steps[0].loss, first.steps[0].loss);
  const auto picture = [](const RunOptions& o, int64_t step) {
    return bytes_of(sample_files(run_paths(o).samples(step)).front());
  };
  EXPECT_EQ(picture(assisted, 0), picture(options, 0));
  EXPECT_NE(picture(assisted, 4), picture(options, 4));
  const SafetensorsFile a(run_paths(options).lora()), b(run_paths(assisted).lora());
  EXPECT_EQ(a.names(), b.names());

  assisted.model.assistant_lora = folder / "pictures/picture_00.png";
  assisted.output.path = folder / "third";
  Ears third;
  EXPECT_ERROR(train_run(assisted, third), bad_input, "picture_00.png", "header");
}

// Pictures of three shapes at two sizes, some masked: every batch has one shape, and a run that is
// stopped and resumed is the run that never stopped.
TEST(Run, TrainsInBucketsWithMasks) {
  const TemporaryFolder folder;
  const fs::path pictures = folder / "pictures", masks = folder / "masks";
  fs::create_directories(pictures);
  fs::create_directories(masks);
  const std::vector<Size> shapes{{96, 64}, {64, 96}, {80, 80}, {100, 64}, {80, 82}};
  for (size_t i = 0; i < shapes.size(); ++i) {
    const Picture picture = painted(static_cast<int>(i), shapes[i].width, shapes[i].height);
    write_png(pictures / fmt::format("{}.png", i), picture);
    if (i % 2) write_png(masks / fmt::format("{}.png", i), picture);
  }
  RunOptions options = small_options(folder.path(), "run");
  options.dataset.buckets = true;
  options.dataset.bucket_step = 16;
  options.dataset.folders[0].resolutions = {48, 64};
  options.dataset.folders[0].mask = masks;
  Ears ears, first, second;
  train_run(options, ears);
  ASSERT_EQ(ears.steps.size(), 6u);
  RunOptions stopped = options;
  stopped.output.path = folder / "stopped";
  first.stop_after = 3;
  train_run(stopped, first);
  train_run(stopped, second, /*resume=*/true);
  EXPECT_EQ(bytes_of(run_paths(stopped).lora()), bytes_of(run_paths(options).lora()));
}

/// A folder of 3 regularisation pictures that the model paints itself.
RunOptions generating(const fs::path& root, const std::string& run) {
  RunOptions options = small_options(root, run);
  options.dataset.folders.emplace_back();
  FolderOptions& folder = options.dataset.folders.back();
  folder.path = root / "painted";
  folder.caption = "a red [trigger] circle";
  folder.regularisation = true;
  folder.generate = 3;
  folder.weight = 0.5;
  return options;
}

TEST(Run, PaintsItsRegularisationPicturesOnce) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 2);
  RunOptions options = generating(folder.path(), "run");
  Ears first, second;
  train_run(options, first);
  EXPECT_THAT(first.notes, Contains(HasSubstr("3 pictures generated")));
  EXPECT_EQ(bytes_of(folder / "painted" / "generated-0003.txt"), "a red circle");
  const Picture one = read_picture(folder / "painted" / "generated-0001.png");
  EXPECT_EQ(one.width, 64);
  EXPECT_NE(one.rgb, read_picture(folder / "painted" / "generated-0002.png").rgb);
  // Another run, another seed: nothing is painted, and what was lost comes back as it was.
  const fs::path lost = folder / "painted" / "generated-0002.png";
  const std::string bytes = bytes_of(lost);
  fs::remove(lost);
  options.output.path = folder / "second";
  options.train.seed = 8;
  train_run(options, second);
  EXPECT_THAT(second.notes, Contains(HasSubstr("1 pictures generated")));
  EXPECT_EQ(bytes_of(lost), bytes);

  options.output.path = folder / "third";
  options.dataset.folders[1].caption = "a blue circle";
  Ears third;
  EXPECT_ERROR(train_run(options, third), bad_input, "painted", "another model or with another");
  EXPECT_FALSE(file_exists(run_paths(options).lora()));
}

TEST(Run, LooksAtTheRestBeforeItPaints) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 2);
  write_file_atomically(folder / "pictures" / "picture_01.png", "damaged");
  Ears ears;
  EXPECT_ERROR(train_run(generating(folder.path(), "run"), ears), bad_input, "picture_01.png",
               "not a picture");
  EXPECT_FALSE(file_exists(folder / "painted" / "generated-0001.png"));
}

TEST(Run, AStopWhilePaintingLosesNothing) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 2);
  RunOptions options = generating(folder.path(), "run");
  options.dataset.folders[1].generate = 10;
  fill_in(options, open_model(options.model));
  const auto device = open_device("cpu");
  int asked = 0;  // by the encoders and before each picture
  const EncodeHooks hooks{[](const std::string&) {}, [](const std::string&) {},
                          [&] { return ++asked > 12; }};
  EXPECT_FALSE(generate_pictures(*device, open_model(options.model), options, hooks));
  EXPECT_TRUE(file_exists(folder / "painted" / "generated-0008.png"));
  EXPECT_FALSE(file_exists(folder / "painted" / "generated-0009.png"));
  const std::string first = bytes_of(folder / "painted" / "generated-0001.png");
  asked = -1000;
  EXPECT_TRUE(generate_pictures(*device, open_model(options.model), options, hooks));
  EXPECT_TRUE(file_exists(folder / "painted" / "generated-0010.png"));
  EXPECT_EQ(bytes_of(folder / "painted" / "generated-0001.png"), first);
}

}  // namespace
}  // namespace fluxlora::train
