// SPDX-License-Identifier: Apache-2.0
// A run from pictures to a LoRA, and what its folder holds.
#include "base/error.h"
#include "tensor/safetensors.h"
#include "train/run_fixture.h"
#include "unit/expect_error.h"

namespace fluxlora::train {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;

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
  const SafetensorsFile lora(paths.lora());
  EXPECT_EQ(lora.metadata().at("fluxlora.trigger"), "zorb");
  EXPECT_EQ(bytes_of(paths.lora()), bytes_of(paths.checkpoint(6) / "lora.safetensors"));
}

}  // namespace
}  // namespace fluxlora::train
