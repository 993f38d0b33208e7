// SPDX-License-Identifier: Apache-2.0
// Runs that must end: numbers that are not finite, disks that are full, folders that are taken.
#include <csignal>

#include <sys/resource.h>
#include <sys/stat.h>

#include "base/error.h"
#include "train/run_fixture.h"
#include "unit/expect_error.h"

namespace fluxlora::train {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Stop, WithTheReasonWhenALossIsNotFinite) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  RunOptions options = small_options(folder.path(), "run");
  options.train.schedule.learning_rate = 1e30;
  options.train.schedule.warmup = 0;
  options.output.checkpoint_every = 1;
  Ears ears;
  EXPECT_ERROR(train_run(options, ears), bad_input, "training", "not finite");
  EXPECT_THAT(ears.end, HasSubstr("not finite"));
  // Whatever was saved is sound: every checkpoint can be read, and resuming meets the same end.
  const RunPaths paths = run_paths(options);
  for (const auto& entry : fs::directory_iterator(paths.checkpoints()))
    EXPECT_FALSE(entry.path().filename().string().starts_with('.')) << entry.path();
  EXPECT_FALSE(file_exists(paths.lora()));
  EXPECT_THAT(bytes_of(paths.metrics()), ::testing::Not(HasSubstr("null")));
  EXPECT_ERROR(train_run(options, ears, true), bad_input, "training", "not finite");
}

/// Files may not grow beyond a limit while this lives: the system then refuses to write, as on a
/// full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST(Stop, AFullDiskLeavesTheOldCheckpointAndNothingHalf) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  RunOptions options = small_options(folder.path(), "run");
  Ears whole;
  {
    RunOptions reference = options;
    reference.output.path = folder / "whole";
    train_run(reference, whole);
  }
  Ears first;
  first.stop_after = 2;
  train_run(options, first);
  const RunPaths paths = run_paths(options);
  {
    const FileSizeLimit limit(100'000);  // a state of this run takes 600 kB
    Ears second;
    EXPECT_ERROR(train_run(options, second, true), environment, "step-000004", "");
  }
  EXPECT_THAT(step_folders(paths.checkpoints()), ElementsAre(2));
  for (const auto& entry : fs::recursive_directory_iterator(options.output.path))
    EXPECT_THAT(entry.path().filename().string(), ::testing::Not(::testing::StartsWith(".")));
  Ears third;
  train_run(options, third, true);
  EXPECT_EQ(bytes_of(paths.lora()), bytes_of(folder / "whole" / "small.safetensors"));
}

TEST(Stop, TwoRunsDoNotShareAFolder) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  const RunOptions options = small_options(folder.path(), "run");
  fs::create_directories(options.output.path);
  const FolderLock lock(options.output.path);
  Ears ears;
  EXPECT_ERROR(train_run(options, ears), bad_input, "run", "in use");
}

TEST(Stop, AMistakeBeforeTheFirstStepLeavesNoFolder) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "pictures");
  const RunOptions options = small_options(folder.path(), "run");
  Ears ears;
  EXPECT_ERROR(train_run(options, ears), bad_input, "pictures", "");
  EXPECT_FALSE(fs::exists(options.output.path));
}

TEST(Stop, AFileInThePlaceOfTheFolder) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  const RunOptions options = small_options(folder.path(), "run");
  write_file_atomically(folder / "run", "a file");
  Ears ears;
  EXPECT_ERROR(train_run(options, ears), environment, "run", "a file is in its place");
  EXPECT_EQ(bytes_of(folder / "run"), "a file");
}

TEST(Stop, InPreparationKeepsTheCacheAndNoState) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  RunOptions options = small_options(folder.path(), "run");
  fill_in(options, open_model(options.model));
  const auto device = open_device("cpu");
  int asked = 0;
  const Texts texts{"", [](const std::string&, const std::string&) { return std::string(); }};
  const Outcome outcome =
      Trainer(*device, options, texts, {{}, [&] { return ++asked > 2; }}).run(false);
  EXPECT_TRUE(outcome.stopped);
  EXPECT_EQ(outcome.step, 0);
  EXPECT_FALSE(fs::exists(run_paths(options).checkpoints()));
  // It may be started again without --resume, since nothing would be lost.
  Ears ears;
  EXPECT_EQ(train_run(options, ears).step, 6);
}

}  // namespace
}  // namespace fluxlora::train
