// SPDX-License-Identifier: Apache-2.0
// `fluxlora evaluate` on runs of seconds.
#include "train/evaluation.h"

#include "data/picture.h"
#include "monitor/jsonl.h"
#include "train/run_fixture.h"
#include "unit/expect_error.h"

namespace fluxlora::train {
namespace {

Evaluation evaluate(const RunOptions& options) {
  RunOptions filled = options;
  fill_in(filled, open_model(filled.model));
  const auto device = open_device("cpu");
  return evaluate_run(*device, filled, [](const std::string&) {});
}

/// Of the transformer alone, or of CLIP too.
class Measured : public ::testing::TestWithParam<bool> {};

INSTANTIATE_TEST_SUITE_P(TextEncoder, Measured, ::testing::Bool());

TEST_P(Measured, AsTheRunMeasuredIt) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 6);
  RunOptions options = small_options(folder.path(), "run");
  options.lora.alpha = 2;  // a factor of 1, so that the file holds the very numbers
  options.validate.every = 2;
  options.validate.stop = false;
  options.lora.text_encoder = GetParam();
  Ears ears;
  train_run(options, ears);
  const Evaluation evaluation = evaluate(options);

  const auto written = monitor::read_metrics(run_paths(options).metrics()).validations;
  ASSERT_EQ(written.size(), 4u);
  // The file's adapters may be stacked in another order, which rounds otherwise.
  const double tolerance = 1e-5 * written[0].loss;
  EXPECT_NEAR(evaluation.base_loss, written[0].loss, tolerance);
  ASSERT_EQ(evaluation.checkpoints.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    const eval::Measures& m = evaluation.checkpoints[i];
    EXPECT_EQ(m.step, written[i + 1].step);
    EXPECT_NEAR(m.loss, written[i + 1].loss, tolerance);
    EXPECT_DOUBLE_EQ(m.gain, 1 - m.loss / evaluation.base_loss);
    EXPECT_GT(m.trigger_drift, 0);
    EXPECT_GT(m.neutral_drift, 0);
    EXPECT_GE(m.spill, 0);
    EXPECT_GE(m.likeness, -1);
    EXPECT_LE(m.likeness, 1);
  }
  EXPECT_LT(evaluation.best, 3u);
  // The base and three checkpoints by two captions and four neutral prompts, each 48 pixels or
  // more.
  EXPECT_EQ(evaluation.prompts.size(), 6u);
  const Picture grid = read_picture(evaluation.grid);
  EXPECT_GE(grid.width, 6 * 48);
  EXPECT_GE(grid.height, 4 * 48);
}

TEST(Evaluation, NeedsHeldOutPicturesAndCheckpoints) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 6);
  RunOptions options = small_options(folder.path(), "run");
  EXPECT_ERROR(evaluate(options), bad_input, "run", "held no picture out");
  options.validate.every = 2;
  EXPECT_ERROR(evaluate(options), bad_input, "run", "holds no checkpoint");
}

}  // namespace
}  // namespace fluxlora::train
