// SPDX-License-Identifier: Apache-2.0
// One step: what accumulation, leftovers, weights and dropout mean, and what it draws.
#include "train/step.h"

#include <map>
#include <memory>

#include "data/dataset.h"
#include "tensor/compare.h"
#include "train/averaged.h"
#include "train/encode.h"
#include "train/groups.h"
#include "train/run_fixture.h"
#include "unit/expect_error.h"

namespace fluxlora::train {
namespace {

/// Everything that a step needs, on the built-in model.
struct Bench {
  RunOptions options;
  std::unique_ptr<Device> device = open_device("cpu");
  ModelFiles folder;
  Dataset dataset;
  Encoded encoded;
  flux::Transformer model;
  std::unique_ptr<ClipText> clip;
  lora::AdapterSet adapters;
  std::unique_ptr<optim::Optimizer> optimizer;
  State state;
  Stepper stepper;

  explicit Bench(RunOptions o)
      : options(filled(std::move(o))),
        folder(open_model(options.model)),
        dataset(scan(options.dataset, options.subject.trigger)),
        encoded(
            encode(*device, folder, dataset, options,
                   {[](const std::string&) {}, [](const std::string&) {}, [] { return false; }})),
        model(*device, folder.transformer, DType::f32),
        clip(adapted_clip()),
        adapters(*device, {model.weights(), clip.get()},
                 lora::select_targets(model.config(), options.lora, read_clip_config(folder.clip)),
                 DType::f32, true),
        optimizer(optim::make_optimizer(*device, options.train.optimizer,
                                        parameter_parts(adapters, options.train), DType::f32)),
        state{*device, model.config(), adapters, *optimizer, 0},
        stepper(model, dataset.examples, encoded, options, {}, prepared_clip()) {
    // B = 0 would make every dA zero and prove nothing.
    Philox random(11, Draw::init);
    for (int64_t i = 0; i < adapters.size(); ++i)
      adapters.params().as<float>()[i] = static_cast<float>(0.05 * random.normal());
  }

  std::unique_ptr<ClipText> adapted_clip() {
    if (!options.lora.text_encoder) return nullptr;
    return std::make_unique<ClipText>(*device, folder.clip, DType::f32);
  }
  ClipText* prepared_clip() {
    if (clip) clip->prepare(options.train.batch_size, true);
    return clip.get();
  }

  static RunOptions filled(RunOptions o) {
    fill_in(o, open_model(o.model));
    return o;
  }

  std::vector<float> gradients(const std::vector<std::vector<Pick>>& picks) {
    stepper.accumulate(adapters, state.step, picks);
    const float* g = adapters.grads().as<const float>();
    return {g, g + adapters.size()};
  }
};

double relative_error(std::vector<float> a, std::vector<float> b) {
  const auto n = static_cast<int64_t>(a.size());
  return fluxlora::relative_error(Tensor(DType::f32, {n}, a.data()),
                                  Tensor(DType::f32, {n}, b.data()));
}

/// A batch of four and two of two draw the same numbers at the same places; what differs is the
/// order of the sums: f32 rounding, a few 1e-7 a sum, so 1e-5 is far above it and far below any
/// mistake.
constexpr double kRounding = 1e-5;

/// The slope of the loss along the gradient of CLIP's adapters is that gradient's length. f32
/// losses are exact to 1e-6, a step that changes them by about 1e-2 makes 1e-4 of it, and its
/// curvature cancels in the central difference but for a part of (1e-2)²; 2 % is above both.
TEST(Step, ClipsGradientsAreTheSlopesOfTheLoss) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  RunOptions options = small_options(folder.path(), "run");
  options.lora.text_encoder = true;
  options.train.batch_size = 4;  // one more than there are pictures
  Bench bench(options);
  const std::vector<std::vector<Pick>> picks{{{0}, {1}, {2}}};
  const std::vector<float> gradient = bench.gradients(picks);
  double squares = 0;
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (const lora::Segment& s : bench.adapters.segments())
    if (lora::is_clip(bench.adapters.specs()[s.spec]))
      ranges.emplace_back(s.offset, s.offset + s.rows * s.columns);
  for (const auto& [first, end] : ranges)
    for (int64_t i = first; i < end; ++i)
      squares += double{gradient[static_cast<size_t>(i)]} * gradient[static_cast<size_t>(i)];
  ASSERT_GT(squares, 0);
  const double length = std::sqrt(squares);
  const double loss = bench.stepper.accumulate(bench.adapters, 0, picks).loss;
  const double h = 1e-2 * loss / length;
  const auto loss_at = [&](double along) {
    const std::vector<float> before(bench.adapters.params().as<float>(),
                                    bench.adapters.params().as<float>() + bench.adapters.size());
    for (const auto& [first, end] : ranges)
      for (int64_t i = first; i < end; ++i)
        bench.adapters.params().as<float>()[i] +=
            static_cast<float>(along / length) * gradient[static_cast<size_t>(i)];
    const double value = bench.stepper.accumulate(bench.adapters, 0, picks).loss;
    std::copy(before.begin(), before.end(), bench.adapters.params().as<float>());
    return value;
  };
  EXPECT_NEAR((loss_at(h) - loss_at(-h)) / (2 * h), length, 0.02 * length);
}

TEST(Step, TwoMicroBatchesOfTwoAreOneOfFour) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 4);
  RunOptions options = small_options(folder.path(), "run");
  options.lora.text_encoder = true;
  options.train.batch_size = 4;
  Bench whole(options);
  options.train.batch_size = 2;
  options.train.accumulation = 2;
  Bench halves(options);
  const auto one = whole.gradients({{{0}, {1}, {2}, {3}}});
  const auto two = halves.gradients({{{0}, {1}}, {{2}, {3}}});
  EXPECT_LT(relative_error(two, one), kRounding);
  const StepResult a =
      whole.stepper.accumulate(whole.adapters, whole.state.step, {{{0}, {1}, {2}, {3}}});
  const StepResult b =
      halves.stepper.accumulate(halves.adapters, halves.state.step, {{{0}, {1}}, {{2}, {3}}});
  EXPECT_NEAR(a.loss, b.loss, kRounding * a.loss);
  EXPECT_NEAR(a.grad_norm, b.grad_norm, kRounding * a.grad_norm);
  EXPECT_EQ(a.timesteps, b.timesteps);
}

TEST(Step, ALeftoverBatchIsTheMeanOfItsOwnPictures) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 5);
  RunOptions options = small_options(folder.path(), "run");
  options.train.batch_size = 3;
  Bench three(options);  // batches of 3 and of 2
  options.train.batch_size = 2;
  Bench two(options);  // batches of 2 and of 1
  EXPECT_LT(relative_error(three.gradients({{{4}, {1}}}), two.gradients({{{4}, {1}}})), kRounding);
}

TEST(Step, AWeightMultipliesTheLoss) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 2);
  RunOptions options = small_options(folder.path(), "run");
  Bench plain(options);
  options.dataset.folders[0].weight = 0.25;
  Bench weighted(options);
  const std::vector<std::vector<Pick>> picks{{{0}, {1}}};
  const StepResult a = plain.stepper.accumulate(plain.adapters, plain.state.step, picks);
  const StepResult b = weighted.stepper.accumulate(weighted.adapters, weighted.state.step, picks);
  EXPECT_NEAR(b.loss, 0.25 * a.loss, kRounding * a.loss);
  EXPECT_NEAR(b.grad_norm, 0.25 * a.grad_norm, kRounding * a.grad_norm);
}

/// Masks for both painted pictures: white in the columns [from, to) of 48.
void paint_masks(const std::filesystem::path& folder, int from, int to) {
  std::filesystem::create_directories(folder);
  Picture mask{48, 40, {}};
  for (int i = 0; i < 48 * 40; ++i)
    mask.rgb.insert(mask.rgb.end(), 3, i % 48 >= from && i % 48 < to ? 255 : 0);
  for (const char* name : {"picture_00.png", "picture_01.png"}) write_png(folder / name, mask);
}

/// The loss is linear in the mask: what a mask and its opposite count is what all counts.
TEST(Step, AMaskAndItsOppositeAreTheWhole) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 2);
  paint_masks(folder / "left", 0, 19);
  paint_masks(folder / "right", 19, 48);
  RunOptions options = small_options(folder.path(), "run");
  const std::vector<std::vector<Pick>> picks{{{0}, {1}}};
  Bench whole(options);
  options.dataset.folders[0].mask = folder / "left";
  Bench left(options);
  options.dataset.folders[0].unmasked_weight = 0.25;
  Bench softened(options);
  options.dataset.folders[0].mask = folder / "right";
  options.dataset.folders[0].unmasked_weight = 0;
  Bench right(options);
  const auto loss = [&](Bench& bench) {
    return bench.stepper.accumulate(bench.adapters, bench.state.step, picks).loss;
  };
  EXPECT_GT(loss(left), 0.1 * loss(whole));
  EXPECT_LT(loss(left), 0.9 * loss(whole));
  EXPECT_NEAR(loss(left) + loss(right), loss(whole), kRounding * loss(whole));
  EXPECT_NEAR(loss(softened), 0.25 * loss(whole) + 0.75 * loss(left), kRounding * loss(whole));
  std::vector<float> sum = left.gradients(picks);
  const std::vector<float> rest = right.gradients(picks);
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += rest[i];
  EXPECT_LT(relative_error(sum, whole.gradients(picks)), kRounding);
}

TEST(Step, APictureWithoutAMaskCountsWholly) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 2);
  paint_masks(folder / "masks", 0, 19);
  RunOptions options = small_options(folder.path(), "run");
  options.train.batch_size = 1;
  Bench plain(options);
  options.dataset.folders[0].mask = folder / "masks";
  Bench both(options);
  std::filesystem::remove(folder / "masks" / "picture_01.png");
  Bench first(options);
  EXPECT_EQ(first.gradients({{{1}}}), plain.gradients({{{1}}}));
  EXPECT_EQ(first.gradients({{{0}}}), both.gradients({{{0}}}));
  EXPECT_GT(relative_error(first.gradients({{{0}}}), plain.gradients({{{0}}})), 1e-2);
}

TEST(Step, DroppingACaptionChangesTheGradients) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 2);
  RunOptions options = small_options(folder.path(), "run");
  options.train.caption_dropout = 0.5;
  Bench bench(options);
  const auto with = bench.gradients({{{0}, {1}}});
  const auto without = bench.gradients({{{0}, {1, true}}});
  EXPECT_GT(relative_error(without, with), 1e-3);
  // And as if the caption had been empty.
  write_file_atomically(folder / "pictures" / "picture_01.txt", "");
  options.dataset.folders[0].trigger = "";
  Bench empty(options);
  ASSERT_EQ(empty.dataset.examples[1].captions[0], "");
  Bench other(options);
  EXPECT_EQ(empty.gradients({{{0}, {1}}}), other.gradients({{{0}, {1, true}}}));
}

/// As if the folder held the mirrored picture, or the other caption.
TEST(Step, APickSaysWhichCaptionAndWhichSide) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 1);
  write_file_atomically(folder / "pictures" / "picture_00.txt", "one\ntwo");
  RunOptions options = small_options(folder.path(), "run");
  options.dataset.folders[0].flip = true;
  options.dataset.folders[0].caption_lines = true;
  Bench bench(options);
  Picture mirrored = load_pixels(bench.dataset.examples[0], true);
  std::filesystem::create_directories(folder / "other");
  write_png(folder / "other" / "a.png", mirrored);
  write_file_atomically(folder / "other" / "a.txt", "two");
  options.dataset.folders[0].path = folder / "other";
  Bench other(options);
  const Pick pick{.example = 0, .caption = 1, .mirrored = true};
  EXPECT_EQ(bench.gradients({{pick}}), other.gradients({{{0}}}));
  EXPECT_GT(relative_error(bench.gradients({{{0}}}), bench.gradients({{pick}})), 1e-3);
}

TEST(Step, GradientsDoNotDependOnWhatWasThereBefore) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  Bench bench(small_options(folder.path(), "run"));
  const auto first = bench.gradients({{{0}, {1}}});
  bench.gradients({{{2}}});
  EXPECT_EQ(bench.gradients({{{0}, {1}}}), first);
}

TEST(Step, GuidanceReachesTheModel) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 2);
  RunOptions options = small_options(folder.path(), "run");
  Bench one(options);
  options.train.guidance = 3.5;
  Bench other(options);
  EXPECT_GT(relative_error(other.gradients({{{0}, {1}}}), one.gradients({{{0}, {1}}})), 1e-4);
}

/// The noise of a place has nothing to do with the picture that comes there, and each step has its
/// own.
TEST(Step, TimesAreOfTheStepAndThePlace) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  Bench bench(small_options(folder.path(), "run"));
  const auto times = [&](int64_t step, const std::vector<Pick>& picks) {
    bench.state.step = step;
    return bench.stepper.accumulate(bench.adapters, bench.state.step, {picks}).timesteps;
  };
  EXPECT_EQ(times(0, {{0}, {1}}), times(0, {{2}, {0}}));
  EXPECT_NE(times(0, {{0}, {1}}), times(1, {{0}, {1}}));
  const auto pair = times(0, {{0}, {1}});
  EXPECT_NE(pair[0], pair[1]);
}

TEST(Step, TrainsOnTheMeanOfThePosterior) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 2);
  Bench bench(small_options(folder.path(), "run"));
  const Latents& latents = bench.encoded.latents[0];
  EXPECT_EQ(latents.h, 8);
  EXPECT_EQ(latents.tokens.view.dim(1), 16);
  for (int64_t i = 0; i < latents.tokens.view.size(); ++i)
    EXPECT_TRUE(std::isfinite(latents.tokens.view.as<float>()[i]));
}

TEST(Step, RatesByGroupMultiply) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 1);
  Bench bench(small_options(folder.path(), "run"));
  TrainOptions options;
  options.b_ratio = 16;
  options.rates = {"single_transformer_blocks.* = 0.5", "attn.to_q=0"};
  const auto parts = parameter_parts(bench.adapters, options);
  ASSERT_EQ(parts.size(), bench.adapters.segments().size());
  for (size_t i = 0; i < parts.size(); ++i) {
    const lora::Segment& segment = bench.adapters.segments()[i];
    const std::string& module = bench.adapters.specs()[segment.spec].module;
    double rate = segment.role == lora::Role::a ? 1 : 16;
    if (module.starts_with("single_")) rate *= 0.5;
    if (module.ends_with(".attn.to_q")) rate = 0;
    EXPECT_EQ(parts[i].rate, rate) << module;
    EXPECT_EQ(parts[i].offset, segment.offset);
  }
  for (const char* wrong : {"attn.to_q", "= 3", "attn.to_q = x", "attn.to_q = -1"}) {
    options.rates = {wrong};
    EXPECT_ERROR(parameter_parts(bench.adapters, options), bad_input, "train.rates",
                 "not PATTERN = NUMBER");
  }
  options.rates = {"attn.to_z = 2"};
  EXPECT_ERROR(parameter_parts(bench.adapters, options), bad_input, "train.rates",
               "fits no trained layer");
}

TEST(Step, TheMeanIsShownAndTheTrainedWeightsComeBack) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 2);
  RunOptions options = small_options(folder.path(), "run");
  options.train.optimizer.ema = 0.9;
  Bench bench(options);
  const auto params = [&] {
    const float* p = bench.adapters.params().as<const float>();
    return std::vector<float>(p, p + bench.adapters.size());
  };
  const Averaged before_the_first(bench.state);
  std::vector<std::vector<float>> seen;
  for (int step = 0; step < 2; ++step) {
    bench.stepper.run(bench.state);
    seen.push_back(params());
  }
  {
    const Averaged averaged(bench.state);
    // The first mean is the parameters; the second forgets 9/11 of it: 2 / (9 + 2) stays.
    std::vector<float> mean;
    for (size_t i = 0; i < seen[0].size(); ++i)
      mean.push_back((2 * seen[0][i] + 9 * seen[1][i]) / 11);
    EXPECT_LT(relative_error(params(), mean), 1e-6);
  }
  EXPECT_EQ(params(), seen[1]);
}

TEST(Step, PreservationIsNothingWhereTheAdapterDoesNothing) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 2);
  RunOptions options = small_options(folder.path(), "run");
  Bench plain(options);
  options.train.preservation = 3;
  Bench kept(options);
  const std::vector<std::vector<Pick>> picks{{{0}, {1}}};
  for (Bench* bench : {&plain, &kept}) bench->adapters.initialise(5, "kaiming");
  EXPECT_EQ(kept.gradients(picks), plain.gradients(picks));
  EXPECT_EQ(kept.stepper.accumulate(kept.adapters, kept.state.step, picks).preserved, 0);
  EXPECT_EQ(plain.stepper.accumulate(plain.adapters, plain.state.step, picks).preserved,
            std::nullopt);
}

/// Against the change of the loss itself. Central differences in f32 over a step that changes the
/// loss by about a tenth: their error is far below the hundredth that is asked for.
TEST(Step, PreservationHasItsGradient) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 2);
  RunOptions options = small_options(folder.path(), "run");
  Bench plain(options);
  options.train.preservation = 0.5;
  options.train.preservation_class = "robot";
  Bench kept(options);
  const std::vector<std::vector<Pick>> picks{{{0}, {1}}};
  const std::vector<float> without = plain.gradients(picks);
  std::vector<float> gradient = kept.gradients(picks);
  double square = 0;
  for (size_t i = 0; i < gradient.size(); ++i) {
    gradient[i] = (gradient[i] - without[i]) / 0.5f;
    square += double{gradient[i]} * double{gradient[i]};
  }
  const double length = std::sqrt(square);
  const auto loss = [&] {
    return *kept.stepper.accumulate(kept.adapters, kept.state.step, picks).preserved;
  };
  const double here = loss(), h = 0.05 * here / length;
  const auto move = [&](double by) {
    for (size_t i = 0; i < gradient.size(); ++i)
      kept.adapters.params().as<float>()[i] += static_cast<float>(by * gradient[i] / length);
  };
  move(h);
  const double after = loss();
  move(-2 * h);
  const double before = loss();
  EXPECT_GT(here, 0);
  EXPECT_NEAR((after - before) / (2 * h), length, 0.01 * length);
}

TEST(Step, NoiseOffsetChangesTheGradients) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 1);
  RunOptions options = small_options(folder.path(), "run");
  const std::vector<std::vector<Pick>> picks{{{0}}};
  const auto plain = Bench(options).gradients(picks);
  options.train.noise_offset = 0.2;
  EXPECT_GT(relative_error(Bench(options).gradients(picks), plain), 1e-3);
}

TEST(Step, HuberIsTheSquareWhereItTurnsFarOut) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 1);
  RunOptions options = small_options(folder.path(), "run");
  const std::vector<std::vector<Pick>> picks{{{0}}};
  const auto plain = Bench(options).gradients(picks);
  options.train.loss = "huber";
  options.train.huber_c = 1e4;  // no difference goes as far
  EXPECT_LT(relative_error(Bench(options).gradients(picks), plain), 1e-5);
  options.train.huber_c = 0.1;
  EXPECT_GT(relative_error(Bench(options).gradients(picks), plain), 1e-3);
}

}  // namespace
}  // namespace fluxlora::train
