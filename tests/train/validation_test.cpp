// SPDX-License-Identifier: Apache-2.0
// Held-out pictures, the validation of a run, its stop and what it leaves.
#include "eval/validation.h"

#include <cmath>

#include "base/philox.h"
#include "eval/drift.h"
#include "eval/held_out.h"
#include "model/flux/transformer.h"
#include "monitor/jsonl.h"
#include "train/refit.h"
#include "train/run_fixture.h"
#include "unit/expect_error.h"

namespace fluxlora::train {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::vector<Example> examples(int subject, int others, int sizes = 1) {
  std::vector<Example> all;
  for (int i = 0; i < subject + others; ++i)
    for (int s = 0; s < sizes; ++s) {
      Example& example = all.emplace_back();
      example.path = fmt::format("{:02}.png", i);
      example.regularisation = i >= subject;
      example.size = {64 * (s + 1), 64};
    }
  return all;
}

TEST(HeldOut, NumbersAreThoseThatTheDocumentationGives) {
  const std::vector<std::pair<int64_t, int64_t>> expected{
      {1, 0}, {3, 0}, {4, 2}, {11, 2}, {12, 2}, {17, 2}, {18, 3}, {30, 5}, {36, 5}, {600, 5}};
  for (const auto& [pictures, held] : expected)
    EXPECT_EQ(eval::held_out_count(pictures), held) << pictures;
}

TEST(HeldOut, PicturesOfTheSubjectAtAllTheirSizes) {
  const auto all = examples(18, 10, 2);
  std::vector<std::vector<bool>> choices;
  for (const uint64_t seed : {1, 1, 2}) choices.push_back(eval::choose_held_out(all, -1, seed));
  EXPECT_EQ(choices[0], choices[1]);
  EXPECT_NE(choices[0], choices[2]);
  int held = 0;
  for (size_t i = 0; i < all.size(); i += 2) {
    EXPECT_EQ(choices[0][i], choices[0][i + 1]);
    EXPECT_FALSE(choices[0][i] && all[i].regularisation);
    held += choices[0][i];
  }
  EXPECT_EQ(held, 3);
  EXPECT_ERROR(eval::choose_held_out(examples(5, 9), 4, 0), bad_input, "validate.held_out",
               "is 4, and there are 5 pictures");
}

/// The built-in model with adapters that do something, and states of text that mean nothing.
struct Net {
  std::unique_ptr<Device> device = open_device("cpu");
  ModelFiles files = open_model({.path = "tiny"});
  flux::Transformer model{*device, files.transformer, DType::f32};
  lora::AdapterSet adapters{*device, model.weights(),
                            lora::select_targets(model.config(), {.rank = 2, .alpha = 2}),
                            DType::f32, /*trains=*/true};
  eval::PromptStates prompt;

  explicit Net(int64_t tokens) {
    const flux::Config& c = model.config();
    prompt = {
        HostTensor(DType::f32, {tokens, c.context_in}), HostTensor(DType::f32, {c.vec_in}), {}};
    fill(prompt.txt.view, 1);
    fill(prompt.pooled.view, 2);
    adapters.initialise(3, "kaiming");
    for (const lora::Segment& segment : adapters.segments()) {
      HostTensor host(DType::f32, {segment.rows, segment.columns});
      fill(host.view, 5, 0.05);
      if (segment.role == lora::Role::b) adapters.upload(segment, host.view);
    }
  }

  static void fill(const Tensor& t, uint64_t seed, double scale = 1) {
    Philox random(seed, Draw::noise);
    for (int64_t i = 0; i < t.size(); ++i)
      t.as<float>()[i] = static_cast<float>(scale * random.normal());
  }
};

// The loss that training sees, which tests/ops/loss_test.cpp checks, of the same noise and times.
TEST(Validation, IsTheFlowMatchingLoss) {
  constexpr int64_t kTokens = 8, h = 6, w = 4, N = h * w / 4;
  Net net(kTokens);
  const int64_t C = net.model.config().in_channels;
  HostTensor x0(DType::f32, {1, N, C});
  Net::fill(x0.view, 4);
  eval::Predictor predictor(net.model, net.adapters, kTokens);
  HostTensor mask(DType::f32, {1, N, 4});
  for (int64_t i = 0; i < mask.view.size(); ++i)
    mask.view.as<float>()[i] = static_cast<float>(i % 3) / 2;
  eval::Validation validation(predictor, {{{h, w}, x0.view, &net.prompt, mask.view}},
                              {.seed = 11, .timesteps = 2, .guidance = 1});
  const double found = validation.loss();
  EXPECT_EQ(found, validation.loss());

  flux::Workspace workspace(net.model, net.model.sizes(1, kTokens, h / 2, w / 2));
  const flux::Inputs& in = workspace.inputs();
  Ops& op = net.device->ops();
  double expected = 0;
  for (const auto& [index, t] : {std::pair{0, 0.25f}, {1, 0.75f}}) {
    HostTensor noise(DType::f32, {1, N, C}), d(DType::f32, {1, N, C}), time(DType::f32, {1}),
        one(DType::f32, {1}), loss(DType::f32, {1});
    Philox random(11, Draw::validation, 0, static_cast<uint32_t>(index));
    for (int64_t i = 0; i < N * C; ++i)
      noise.view.as<float>()[i] = static_cast<float>(random.normal());
    *time.view.as<float>() = t;
    *one.view.as<float>() = 1;
    op.flow_interpolate(in.img, x0.view, noise.view, time.view);
    net.device->upload(in.txt, net.prompt.txt.view.data());
    net.device->upload(in.pooled, net.prompt.pooled.view.data());
    op.fill(in.t, t);
    op.fill(in.guidance, 1);
    workspace.forward();
    op.flow_loss(loss.view, d.view, workspace.prediction(), x0.view, noise.view, one.view,
                 mask.view);
    expected += *loss.view.as<float>() / 2;
  }
  EXPECT_NEAR(found, expected, 1e-5 * expected);  // f32 sums on the other side
}

TEST(Drift, IsZeroForTheBaseAndGrowsWithTheMultiplier) {
  constexpr int64_t kTokens = 8;
  Net net(kTokens);
  eval::Predictor predictor(net.model, net.adapters, kTokens);
  eval::Drift drift(predictor, read_scheduler_config(net.files), {&net.prompt, &net.prompt},
                    {.size = {4, 4}, .seed = 5, .points = 3});
  net.adapters.set_multiplier(0);
  EXPECT_EQ(drift.overall(), 0);
  net.adapters.set_multiplier(0.01f);
  const double small = drift.overall();
  net.adapters.set_multiplier(0.02f);
  const double twice = drift.overall();
  EXPECT_GT(small, 0);
  EXPECT_NEAR(twice / small, 2, 0.05);  // linear for small changes
  const std::vector<double> each = drift.by_prompt();
  ASSERT_EQ(each.size(), 2u);
  EXPECT_NE(each[0], each[1]);  // from another noise each
}

RunOptions validating(const fs::path& root, const std::string& run) {
  paint_dataset(root / "pictures", 6);
  RunOptions o = small_options(root, run);
  o.validate.every = 1;
  o.validate.stop = false;
  o.output.checkpoint_every = 0;
  o.output.keep = 1;
  return o;
}

TEST(ValidatedRun, LeavesItsBestStep) {
  const TemporaryFolder folder;
  RunOptions options = validating(folder.path(), "run");
  options.train.schedule.learning_rate = 3e-2;  // so that the last step is not likely the best
  Ears ears;
  train_run(options, ears);
  ASSERT_EQ(ears.validations.size(), 7u);
  const auto best = std::min_element(ears.validations.begin(), ears.validations.end(),
                                     [](const auto& a, const auto& b) { return a.loss < b.loss; });
  const RunPaths paths = run_paths(options);
  const int64_t kept = best->step ? best->step : 6;
  EXPECT_EQ(bytes_of(paths.lora()), bytes_of(paths.checkpoint(kept) / "lora.safetensors"));
  EXPECT_TRUE(folder_exists(paths.checkpoint(6)));
  // Every second one has measured the drift; the untrained model has none.
  EXPECT_EQ(ears.validations[0].drift, 0);
  EXPECT_FALSE(ears.validations[1].drift.has_value());
  EXPECT_GT(ears.validations[2].drift.value_or(0), 0);
  const auto written = monitor::read_metrics(paths.metrics()).validations;
  ASSERT_EQ(written.size(), 7u);
  EXPECT_EQ(written[2].loss, ears.validations[2].loss);
  EXPECT_EQ(written[2].drift, ears.validations[2].drift);
  // Four of six pictures are trained.
  EXPECT_THAT(ears.notes, ::testing::Contains(HasSubstr("4 pictures")));
}

TEST(ValidatedRun, StopsAndSaysWhyAndGoesOnWhenAsked) {
  const TemporaryFolder folder;
  RunOptions options = validating(folder.path(), "run");
  options.validate.stop = true;
  options.validate.stopping = {.patience = 1, .min_gain = 1};  // the second validation is the end
  Ears first, again, on;
  const Outcome outcome = train_run(options, first);
  EXPECT_FALSE(outcome.stopped);
  EXPECT_EQ(outcome.step, 1);
  EXPECT_THAT(outcome.reason, HasSubstr("finished after 1 of 6 steps: "));
  const std::string lora = bytes_of(run_paths(options).lora());
  train_run(options, again, /*resume=*/true);
  EXPECT_TRUE(again.steps.empty());
  EXPECT_EQ(bytes_of(run_paths(options).lora()), lora);
  options.validate.stop = false;
  EXPECT_EQ(train_run(options, on, /*resume=*/true).step, 6);
  EXPECT_EQ(on.steps.size(), 5u);
}

TEST(ValidatedRun, IsTrainedOnceMoreOnAllPicturesForTheBestLength) {
  const TemporaryFolder folder;
  RunOptions options = validating(folder.path(), "run");
  EXPECT_FALSE(refit_options(options));
  options.validate.refit = true;
  Ears first, second;
  train_run(options, first);
  const auto best = std::min_element(first.validations.begin(), first.validations.end(),
                                     [](const auto& a, const auto& b) { return a.loss < b.loss; });
  const auto again = refit_options(options);
  ASSERT_EQ(again.has_value(), best->step > 0);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->train.steps, best->step);
  train_run(*again, second);
  EXPECT_TRUE(second.validations.empty());
  EXPECT_THAT(second.notes, ::testing::Contains(HasSubstr("6 pictures")));
  const std::string lora = bytes_of(run_paths(*again).lora());
  EXPECT_NE(bytes_of(run_paths(options).lora()), lora);
  take_refit(options, *again);
  EXPECT_EQ(bytes_of(run_paths(options).lora()), lora);
}

TEST(ValidatedRun, EndsWhenItsTimeIsOver) {
  const TemporaryFolder folder;
  RunOptions options = validating(folder.path(), "run");
  options.train.max_time = 1e-9;
  Ears ears;
  const Outcome outcome = train_run(options, ears);
  EXPECT_FALSE(outcome.stopped);
  EXPECT_LT(outcome.step, 6);
  EXPECT_THAT(outcome.reason, HasSubstr("train.max_time"));
  EXPECT_TRUE(file_exists(run_paths(options).lora()));
}

TEST(ValidatedRun, FewPicturesAreAllTrained) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  RunOptions options = small_options(folder.path(), "run");
  options.validate.every = 2;
  Ears ears;
  train_run(options, ears);
  EXPECT_TRUE(ears.validations.empty());
  EXPECT_THAT(ears.notes, ::testing::Contains(HasSubstr("too few pictures")));
}

}  // namespace
}  // namespace fluxlora::train
