// SPDX-License-Identifier: Apache-2.0
// "The same run" means the same bytes: a run that was stopped and resumed, at any step, leaves the
// .safetensors and the metrics of one that never stopped.
#include <functional>
#include <map>

#include "base/error.h"
#include "train/memory_plan.h"
#include "train/run_fixture.h"
#include "train/step.h"
#include "unit/expect_error.h"

namespace fluxlora::train {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;

/// Every kind of randomness and of unevenness at once: 5 + 3 pictures (one twice) in batches of 2
/// with accumulation, so that leftover batches occur in the middle of steps; two training sizes.
RunOptions uneven_options(const fs::path& root, const std::string& run) {
  RunOptions o = small_options(root, run);
  o.dataset.folders[0].resolutions = {64, 96};
  FolderOptions others;
  others.path = root / "others";
  others.regularisation = true;
  others.weight = 0.5;
  others.repeats = 2;
  o.dataset.folders.push_back(others);
  o.train.steps = 7;
  o.train.accumulation = 2;
  o.train.caption_dropout = 0.4;
  o.train.schedule.schedule = "cosine";
  o.train.schedule.warmup = 2;
  o.output.checkpoint_every = 3;
  o.validate.every = 3;
  o.validate.stop = false;
  o.sample.every = 3;
  return o;
}

void paint_both(const fs::path& root) {
  paint_dataset(root / "pictures", 5);
  paint_dataset(root / "others", 3, 10);
}

/// Everything below a run's folder that must not depend on stops.
std::map<std::string, std::string> lasting_content(const fs::path& run) {
  std::map<std::string, std::string> content;
  for (const auto& entry : fs::recursive_directory_iterator(run)) {
    const std::string name = fs::relative(entry.path(), run).string();
    const std::string ending = entry.path().extension().string();
    if (ending == ".safetensors" || ending == ".png") content[name] = bytes_of(entry.path());
  }
  content["metrics.jsonl"] = metrics_without_seconds(run / "metrics.jsonl");
  return content;
}

void expect_same(const fs::path& run, const std::map<std::string, std::string>& expected,
                 const std::string& what) {
  const auto found = lasting_content(run);
  std::vector<std::string> names, expected_names;
  for (const auto& [name, bytes] : found) names.push_back(name);
  for (const auto& [name, bytes] : expected) expected_names.push_back(name);
  EXPECT_EQ(names, expected_names) << what;
  for (const auto& [name, bytes] : expected)
    EXPECT_TRUE(found.contains(name) && found.at(name) == bytes) << what << ": " << name;
}

TEST(Resume, AfterAnyStepGivesTheSameBytes) {
  const TemporaryFolder folder;
  paint_both(folder.path());
  Ears whole;
  train_run(uneven_options(folder.path(), "whole"), whole);
  const auto expected = lasting_content(folder / "whole");
  EXPECT_TRUE(expected.contains("checkpoints/step-000006/state.safetensors"));
  EXPECT_TRUE(expected.contains("samples/step-000007/02.png"));

  for (const size_t stop : {1, 2, 3, 5}) {
    const RunOptions options = uneven_options(folder.path(), fmt::format("stopped-{}", stop));
    Ears first, second;
    first.stop_after = stop;
    const Outcome outcome = train_run(options, first);
    EXPECT_TRUE(outcome.stopped);
    EXPECT_EQ(outcome.step, static_cast<int64_t>(stop));
    train_run(options, second, /*resume=*/true);
    ASSERT_FALSE(second.steps.empty());
    EXPECT_EQ(second.steps.front().step, static_cast<int64_t>(stop) + 1);
    expect_same(options.output.path, expected, fmt::format("stopped after {}", stop));
  }
}

/// A run of four steps, stopped after three and resumed, against one that never stopped.
void expect_resumable(const std::string& name, const std::function<void(RunOptions&)>& set) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  RunOptions options = small_options(folder.path(), "whole");
  options.train.steps = 4;
  set(options);
  Ears ears, first, second;
  train_run(options, ears);
  const auto expected = lasting_content(options.output.path);
  options.output.path = folder / "stopped";
  first.stop_after = 3;
  train_run(options, first);
  train_run(options, second, true);
  EXPECT_EQ(second.steps.front().step, 4);
  auto found = lasting_content(options.output.path);
  found.erase("checkpoints/step-000003/lora.safetensors");
  found.erase("checkpoints/step-000003/state.safetensors");
  EXPECT_EQ(found.size(), expected.size()) << name;
  for (const auto& [file, bytes] : expected)
    EXPECT_TRUE(found.contains(file) && found.at(file) == bytes) << name << ": " << file;
}

/// Every optimizer with what it keeps, and the mean of the parameters.
TEST(Resume, EveryOptimizerGivesTheSameBytes) {
  const std::vector<std::pair<std::string, std::function<void(TrainOptions&)>>> ways{
      {"adamw8bit", [](TrainOptions& t) { t.b_ratio = 4; }},
      {"adafactor", [](TrainOptions& t) { t.optimizer.relative_step = true; }},
      {"lion", [](TrainOptions& t) { t.rates = {"single_transformer_blocks.* = 0.5"}; }},
      {"prodigy", [](TrainOptions& t) { t.schedule.learning_rate = 1; }},
      {"schedule_free", [](TrainOptions& t) { t.schedule.warmup = 2; }},
      {"adamw", [](TrainOptions& t) {
         t.optimizer.ema = 0.9;
         t.optimizer.measure_noise = true;
       }}};
  for (const auto& [name, set] : ways)
    expect_resumable(name, [&name, &set](RunOptions& o) {
      o.train.optimizer.optimizer = name;
      set(o.train);
    });
}

/// Every adapter with what it keeps, and dropout.
TEST(Resume, EveryAdapterGivesTheSameBytes) {
  expect_resumable("lora_ga", [](RunOptions& o) {
    o.lora.init = "lora_ga";
    o.lora.ga_batches = 2;
  });
  expect_resumable("dora", [](RunOptions& o) {
    o.lora.type = "dora";
    o.lora.dropout = 0.2;
  });
  expect_resumable("lokr", [](RunOptions& o) { o.lora.type = "lokr"; });
  expect_resumable("clip", [](RunOptions& o) {
    o.lora.text_encoder = true;
    o.lora.dropout = 0.2;
    o.lora.dropout_of = "input";
    o.train.rates = {"text_encoder.* = 0.5"};
    o.train.preservation = 0.5;
    o.train.optimizer.ema = 0.9;
    o.sample.every = 2;
  });
}

/// The smallest budget that a plan of this run exists for, in MiB.
int64_t least_budget(const RunOptions& options) {
  const auto device = open_device("cpu");
  const ModelFiles model = open_model(options.model);
  const Dataset dataset = scan(options.dataset, options.subject.trigger);
  const PlanInputs inputs =
      plan_inputs(options, model, true, Stepper::shapes(dataset.examples, options));
  int64_t low = 0, high = 4096;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    try {
      plan_memory(inputs, {.name = "test", .budget = middle << 20});
      high = middle;
    } catch (const Error&) {
      low = middle;
    }
  }
  return high;
}

TEST(Memory, ARunInTheLeastOfItGivesTheSameBytes) {
  const TemporaryFolder folder;
  paint_both(folder.path());
  Ears whole, tight;
  RunOptions options = uneven_options(folder.path(), "whole");
  train_run(options, whole);
  options.output.path = folder / "tight";
  fill_in(options, open_model(options.model));
  options.memory.vram = fmt::format("{}MiB", least_budget(options));
  train_run(options, tight);
  EXPECT_THAT(tight.notes, Contains(HasSubstr("visit from the host")));
  expect_same(options.output.path, lasting_content(folder / "whole"), "in little memory");
}

/// Thrown out of a sink in the middle of a run: nothing is saved, as when the power fails.
struct Crash {};
struct CrashingEars : Ears {
  size_t at = 0;
  void on_step(const monitor::StepEvent& e) override {
    Ears::on_step(e);
    if (steps.size() == at) throw Crash();
  }
};

TEST(Resume, AfterACrashGoesOnFromTheLastCheckpoint) {
  const TemporaryFolder folder;
  paint_both(folder.path());
  Ears whole;
  train_run(uneven_options(folder.path(), "whole"), whole);
  const auto expected = lasting_content(folder / "whole");
  for (const size_t crash : {2, 5}) {
    const RunOptions options = uneven_options(folder.path(), fmt::format("crashed-{}", crash));
    CrashingEars first;
    first.at = crash;
    EXPECT_THROW(train_run(options, first), Crash);
    Ears second;
    train_run(options, second, true);
    EXPECT_EQ(second.steps.front().step, crash == 2 ? 1 : 4);
    if (crash == 2) {
      EXPECT_THAT(second.notes, Contains(HasSubstr("starting at step 0")));
    }
    expect_same(options.output.path, expected, fmt::format("crashed at {}", crash));
  }
}

TEST(Resume, PassesOverADamagedCheckpointAndRemovesHalfOnes) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  const RunOptions options = small_options(folder.path(), "run");
  Ears ears;
  ears.stop_after = 5;
  train_run(options, ears);
  const RunPaths paths = run_paths(options);
  fs::resize_file(paths.checkpoint(5) / "state.safetensors", 100);
  fs::create_directories(paths.checkpoints() / ".step-000006");
  fs::create_directories(paths.samples() / ".step-000006");
  Ears again;
  train_run(options, again, true);
  EXPECT_EQ(again.steps.front().step, 5);
  EXPECT_FALSE(fs::exists(paths.checkpoints() / ".step-000006"));
  EXPECT_FALSE(fs::exists(paths.samples() / ".step-000006"));
}

TEST(Resume, IsAskedForAndRefusedInWords) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  RunOptions options = small_options(folder.path(), "run");
  Ears ears, second;
  ears.stop_after = 3;
  train_run(options, ears);
  EXPECT_ERROR(train_run(options, second), bad_input, "run", "not finished");
  train_run(options, second, true);
  EXPECT_ERROR(train_run(options, second), bad_input, "run", "finished run");

  // Nothing is left to do: said, and nothing is touched.
  const auto before = lasting_content(options.output.path);
  Ears third;
  const Outcome outcome = train_run(options, third, true);
  EXPECT_FALSE(outcome.stopped);
  EXPECT_THAT(outcome.reason, HasSubstr("no steps are left"));
  EXPECT_TRUE(third.steps.empty());
  expect_same(options.output.path, before, "finished");

  // More steps go on where it ended.
  options.train.steps = 8;
  Ears fourth;
  EXPECT_EQ(train_run(options, fourth, true).step, 8);
  EXPECT_EQ(fourth.steps.front().step, 7);
}

TEST(Resume, RefusesFewerStepsThanAreDone) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  RunOptions options = small_options(folder.path(), "run");
  Ears ears;
  ears.stop_after = 3;
  train_run(options, ears);
  options.train.steps = 2;
  EXPECT_ERROR(train_run(options, ears, true), bad_input, "train.steps", "done 3 already");
}

TEST(Resume, RefusesOtherPictures) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  RunOptions options = small_options(folder.path(), "run");
  Ears ears;
  ears.stop_after = 3;
  train_run(options, ears);
  write_file_atomically(folder / "pictures" / "picture_01.txt", "another caption");
  EXPECT_ERROR(train_run(options, ears, true), bad_input, "dataset.folders", "not those");
}

TEST(Resume, KeepsTheNewestCheckpoints) {
  const TemporaryFolder folder;
  paint_dataset(folder / "pictures", 3);
  RunOptions options = small_options(folder.path(), "run");
  options.output.checkpoint_every = 1;
  options.output.keep = 2;
  Ears ears;
  train_run(options, ears);
  EXPECT_THAT(step_folders(run_paths(options).checkpoints()), ::testing::ElementsAre(5, 6));
}

}  // namespace
}  // namespace fluxlora::train
