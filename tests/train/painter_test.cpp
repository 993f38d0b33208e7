// SPDX-License-Identifier: Apache-2.0
// Samples: a function of prompt, seed and model alone, the same in previews and by themselves.
#include "eval/painter.h"

#include <vector>

#include "train/previews.h"
#include "train/run_fixture.h"

namespace fluxlora::train {
namespace {

constexpr int64_t kTokens = 16, kSteps = 2;
constexpr double kGuidance = 3.5;

/// The built-in model, ready to paint 64x64.
struct Studio {
  std::unique_ptr<Device> device = open_device("cpu");
  ModelFiles files = open_model({"tiny"});
  flux::Transformer model{*device, files.transformer, DType::f32};
  eval::Painter painter{model, files, {64, 64}, kTokens};

  Picture paint(const std::string& prompt, uint64_t seed) {
    const auto book = eval::encode_prompts(*device, files, {prompt}, {.text_tokens = kTokens});
    const HostTensor noise =
        eval::sample_noise(seed, painter.channels(), painter.height(), painter.width());
    std::vector<HostTensor> latents;
    latents.push_back(painter.paint(book.at(prompt), noise.view, kSteps, kGuidance));
    return eval::decode(*device, files, latents).front();
  }
};

TEST(Painter, PaintsTheSameTwiceAndAnotherWithAnotherSeed) {
  Studio studio;
  const Picture first = studio.paint("a red circle", 3);
  EXPECT_NE(studio.paint("a red circle", 4).rgb, first.rgb);
  EXPECT_NE(studio.paint("a blue star", 3).rgb, first.rgb);
  EXPECT_EQ(studio.paint("a red circle", 3).rgb, first.rgb);
  EXPECT_EQ(Studio().paint("a red circle", 3).rgb, first.rgb);
}

// Before the first step every B is zero: an adapter must add exactly nothing.
TEST(Painter, PreviewsBeforeTrainingAreTheBaseModels) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 2);
  RunOptions options = small_options(folder.path(), "run");
  options.train.steps = 1;
  options.sample.every = 1;
  options.sample.steps = kSteps;
  options.sample.guidance = kGuidance;
  options.sample.seed = 5;
  options.sample.prompts = {"a [trigger]", "a red circle"};
  Ears ears;
  train_run(options, ears);
  const auto files = sample_files(run_paths(options).samples(0));
  ASSERT_EQ(files.size(), 2u);
  Studio studio;
  EXPECT_EQ(read_picture(files[0]).rgb, studio.paint("a zorb", 5).rgb);
  EXPECT_EQ(read_picture(files[1]).rgb, studio.paint("a red circle", 6).rgb);
}

TEST(Painter, NoiseIsStandardNormal) {
  const HostTensor noise = eval::sample_noise(1, 16, 32, 32);
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < noise.view.size(); ++i) {
    const double x = noise.view.as<float>()[i];
    sum += x;
    squares += x * x;
  }
  const auto n = static_cast<double>(noise.view.size());
  // Five standard errors: 1 / sqrt(n) of the mean, sqrt(2 / n) of the variance.
  EXPECT_LT(std::abs(sum / n), 5 / std::sqrt(n));
  EXPECT_LT(std::abs(squares / n - 1), 5 * std::sqrt(2 / n));
}

}  // namespace
}  // namespace fluxlora::train
