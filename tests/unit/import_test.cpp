// SPDX-License-Identifier: Apache-2.0
// Other trainers' configurations: every option of their parsers is known, and what they say keeps
// its meaning. The expected values are computed here from the peers' own definitions.
#include "config/import/import.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "config/import/foreign.h"
#include "config/keys.h"
#include "flow/timestep.h"
#include "unit/expect_error.h"
#include "unit/temporary_folder.h"

namespace fluxlora::config {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

const fs::path kSource = FLUXLORA_SOURCE_DIR;
const fs::path kExamples = kSource / "tests/import/examples";

/// How many options of a peer's parser, as tools/peers/list_options.py printed them, are translated
/// and how many are listed.
struct Count {
  int mapped = 0, listed = 0;
};

Count count_options(const std::string& list, const std::string& peer) {
  std::istringstream names(read_text(kSource / "tests/import/peer_options" / (list + ".txt")));
  const PeerTable& table = peer_table(peer);
  Count count;
  for (std::string name; std::getline(names, name);) {
    if (table.is_mapped(name))
      ++count.mapped;
    else if (table.note(name))
      ++count.listed;
    else
      ADD_FAILURE() << peer << "'s option " << name << " is neither translated nor listed";
    EXPECT_FALSE(table.is_mapped(name) && table.notes.contains(name)) << name << " is both";
  }
  return count;
}

void expect_documented(const std::string& list, const std::string& peer) {
  const Count count = count_options(list, peer);
  const std::string row =
      fmt::format("| {} | {} | {} |", count.mapped + count.listed, count.mapped, count.listed);
  EXPECT_THAT(read_text(kSource / "docs/import.md"), HasSubstr(row)) << list;
}

TEST(Import, KnowsEveryOptionOfThePeers) {
  expect_documented("kohya", "kohya");
  expect_documented("kohya-dataset", "kohya");
  expect_documented("ai-toolkit", "ai-toolkit");
  expect_documented("diffusers", "diffusers");
}

TEST(Import, TablesNameKeysOfOurs) {
  for (const char* peer : {"kohya", "ai-toolkit", "diffusers"})
    for (const auto& [option, key] : peer_table(peer).direct) {
      const auto keys = run_keys();
      EXPECT_TRUE(std::any_of(keys.begin(), keys.end(),
                              [&, wanted = key](const RunKey& k) { return k.full() == wanted; }))
          << peer << ": " << option << " -> " << key;
    }
}

/// Pictures are counted by their names alone.
void make_pictures(const fs::path& folder, int count) {
  fs::create_directories(folder);
  for (int i = 0; i < count; ++i)
    write_file_atomically(folder / fmt::format("p{}.png", i), std::string_view("x"));
}

std::string would(const Imported& imported, const std::string& option) {
  for (const Listed& listed : imported.listed)
    if (listed.option == option) return listed.would;
  return "(not listed)";
}

class ImportFolder : public testing::Test {
 protected:
  Imported example(const std::string& name) {
    fs::copy(kExamples, folder_.path(),
             fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    make_pictures(folder_ / "photos", 12);
    make_pictures(folder_ / "photos/regularisation", 7);
    make_pictures(folder_ / "named/3_zorbot", 5);
    return import_config({(folder_ / name).string()});
  }
  TemporaryFolder folder_;
};

TEST_F(ImportFolder, KohyaKeepsItsMeaning) {
  const Imported imported = example("kohya_guide.sh");
  const train::RunOptions& o = imported.options;
  EXPECT_EQ(imported.peer, "kohya");
  EXPECT_EQ(o.lora.rank, 16);
  EXPECT_EQ(o.lora.alpha, 1);
  EXPECT_THAT(o.lora.targets, ElementsAre("kohya"));
  EXPECT_EQ(o.train.timestep.sampling, "flux_shift");
  EXPECT_EQ(o.train.guidance, 1);
  EXPECT_EQ(o.train.batch_size, 2);
  EXPECT_EQ(o.dataset.resolution, 512);
  EXPECT_EQ(o.train.caption_dropout, 0) << "kohya's default";
  ASSERT_EQ(o.dataset.folders.size(), 2u);
  EXPECT_EQ(o.dataset.folders[0].repeats, 10);
  EXPECT_EQ(o.dataset.folders[0].caption, "zorbot");
  EXPECT_EQ(o.dataset.folders[0].trigger, "") << "kohya puts no word into captions";
  EXPECT_TRUE(o.dataset.folders[1].regularisation);
  // 12 pictures ten times and 7 of the class, in batches of 2: 64 updates an epoch.
  EXPECT_EQ(o.train.steps, 10 * 64);
  EXPECT_EQ(o.output.checkpoint_every, 64);
  EXPECT_THAT(would(imported, "blocks_to_swap"), HasSubstr("host's memory"));
  EXPECT_TRUE(o.dataset.buckets);
  EXPECT_EQ(would(imported, "shuffle_caption"), "(not listed)") << "it is false";
}

TEST_F(ImportFolder, KohyaTomlWithAccumulationAndOptimizerArguments) {
  const train::RunOptions o = example("kohya_training.toml").options;
  EXPECT_EQ(o.train.steps, 4 * ((120 + 7 + 3) / 4)) << "batches of 2, two of them an update";
  EXPECT_EQ(o.train.optimizer.weight_decay, 0.05);
  EXPECT_EQ(o.train.optimizer.beta2, 0.99);
  EXPECT_EQ(o.output.dtype, "f16");
  EXPECT_EQ(o.train.timestep.sampling, "shift");
  EXPECT_EQ(o.train.timestep.shift, 3);
  EXPECT_EQ(o.train.noise_offset, 0.05);
  EXPECT_EQ(o.output.path, fs::path("output/from_toml"));
}

TEST_F(ImportFolder, KohyaDefaultsAreKohyas) {
  const train::RunOptions o = example("kohya_ranks.sh").options;
  EXPECT_EQ(o.train.guidance, 3.5);
  EXPECT_DOUBLE_EQ(o.train.schedule.learning_rate, 2e-6);
  EXPECT_EQ(o.sample.every, 0);
  EXPECT_EQ(o.output.checkpoint_every, 0);
}

TEST_F(ImportFolder, KohyaWarmUpIsAShare) {
  const Imported imported = example("kohya_shift.sh");
  const train::RunOptions& o = imported.options;
  EXPECT_EQ(o.train.schedule.warmup, 90) << "0.1 of 900 steps";
  EXPECT_EQ(o.model.precision, "fp8");
  EXPECT_EQ(o.output.keep, 2) << "the last 600 steps, every 300";
  EXPECT_THAT(o.sample.prompts, ElementsAre("a zorbot on a table", "a zorbot in the snow"));
  EXPECT_EQ(o.sample.width, 512);
  EXPECT_EQ(o.sample.height, 768);
  EXPECT_EQ(o.sample.guidance, 4);
}

TEST_F(ImportFolder, KohyaChoosesBlocks) {
  EXPECT_THAT(example("kohya_blocks.sh").options.lora.targets,
              ElementsAre("double_blocks.0.*", "double_blocks.1.*", "single_blocks.0.*",
                          "single_blocks.1.*", "single_blocks.3.*"));
  EXPECT_THAT(example("kohya_single_blocks.sh").options.lora.targets,
              ElementsAre("single_blocks.*"));
  EXPECT_THAT(example("kohya_split.sh").options.lora.targets, ElementsAre("ai-toolkit"));
}

TEST_F(ImportFolder, KohyaFoldersByName) {
  const train::RunOptions o = example("kohya_named_folders.sh").options;
  ASSERT_EQ(o.dataset.folders.size(), 1u);
  EXPECT_EQ(o.dataset.folders[0].repeats, 3);
  EXPECT_EQ(o.dataset.folders[0].caption, "zorbot");
  EXPECT_EQ(o.train.steps, 2 * 15);
}

TEST_F(ImportFolder, KohyaSizesOfOneFolderMeet) {
  const train::RunOptions o = example("kohya_two_sizes.sh").options;
  EXPECT_TRUE(o.dataset.folders[0].flip);
  ASSERT_EQ(o.dataset.folders.size(), 1u) << "the third is for validation alone";
  EXPECT_THAT(o.dataset.folders[0].resolutions, ElementsAre(1024, 768));
}

TEST_F(ImportFolder, AiToolkitKeepsItsMeaning) {
  const Imported imported = example("ai_toolkit_modal.yaml");
  const train::RunOptions& o = imported.options;
  EXPECT_EQ(o.train.steps, 500) << "2000 batches, four of them an update";
  EXPECT_EQ(o.train.accumulation, 4);
  EXPECT_EQ(o.output.checkpoint_every, 63);
  EXPECT_EQ(o.subject.trigger, "zorbot");
  EXPECT_EQ(o.dataset.folders[0].trigger, std::nullopt) << "ai-toolkit puts it into captions";
  EXPECT_THAT(o.dataset.folders[0].resolutions, ElementsAre(512, 768, 1024));
  EXPECT_THAT(o.lora.targets, ElementsAre("ai-toolkit"));
  EXPECT_DOUBLE_EQ(o.train.optimizer.eps, 1e-6);
  EXPECT_EQ(o.train.guidance, 1);
  EXPECT_EQ(o.sample.prompts[1], "[trigger] at the beach, my_lora_away");
  EXPECT_EQ(o.train.optimizer.ema, 0.99);
  EXPECT_EQ(would(imported, "train.ema_config.use_ema"), "(not listed)");
  EXPECT_THAT(would(imported, "train.linear_timesteps"), HasSubstr("bell"));
  EXPECT_THAT(would(imported, "model.name_or_path"), HasSubstr("hf download"));
}

TEST_F(ImportFolder, DiffusersKeepsItsMeaning) {
  const train::RunOptions o = example("diffusers_prior.sh").options;
  ASSERT_EQ(o.dataset.folders.size(), 2u);
  EXPECT_EQ(o.dataset.folders[0].caption, "a photo of sks dog");
  EXPECT_EQ(o.dataset.folders[1].weight, 0.5);
  EXPECT_THAT(o.lora.targets,
              ElementsAre("*.attn.to_k", "*.attn.to_q", "*.attn.to_v", "*.attn.to_out.0"));
  EXPECT_EQ(o.lora.alpha, 8);
  EXPECT_EQ(o.lora.dropout, 0.1);
  EXPECT_EQ(o.lora.dropout_of, "input") << "PEFT's";
  EXPECT_EQ(o.train.steps, 3 * 19);
  EXPECT_EQ(o.train.optimizer.weight_decay, 1e-4) << "the script's default";
  EXPECT_EQ(o.train.schedule.warmup, 50);
  EXPECT_EQ(o.train.timestep.sampling, "logit_normal");
  EXPECT_EQ(o.train.timestep.logit_mean, -0.5) << "diffusers walks the times downwards";
}

TEST_F(ImportFolder, ProdigyIsWhatEachPeerMakesOfIt) {
  const Imported diffusers = example("diffusers_lora.sh");
  EXPECT_EQ(diffusers.options.train.optimizer.optimizer, "prodigy");
  EXPECT_EQ(diffusers.options.train.schedule.learning_rate, 1);
  EXPECT_TRUE(diffusers.options.train.optimizer.bias_correction) << "the script's default";
  const Imported kohya =
      import_config({"flux_train_network.py", "--network_module=networks.lora_flux",
                     "--learning_rate=1", "--optimizer_type=Prodigy", "--optimizer_args",
                     "d_coef=2", "decouple=True", "beta3=0.9", "safeguard_warmup=True"});
  const optim::Options& o = kohya.options.train.optimizer;
  EXPECT_EQ(o.d_coef, 2);
  EXPECT_TRUE(o.safeguard_warmup);
  EXPECT_FALSE(o.bias_correction) << "prodigyopt's default";
  EXPECT_EQ(would(kohya, "optimizer_args.decouple"), "(not listed)");
  EXPECT_THAT(would(kohya, "optimizer_args.beta3"), HasSubstr("shape"));
}

TEST_F(ImportFolder, AdafactorFindsItsRateUnlessItIsToldNotTo) {
  const Imported told = example("kohya_adafactor.sh");
  EXPECT_EQ(told.options.train.optimizer.optimizer, "adafactor");
  EXPECT_FALSE(told.options.train.optimizer.relative_step);
  EXPECT_EQ(would(told, "optimizer_args.scale_parameter"), "(not listed)") << "as ours";
  const Imported silent =
      import_config({"flux_train_network.py", "--network_module=networks.lora_flux",
                     "--optimizer_type=AdaFactor"});
  EXPECT_TRUE(silent.options.train.optimizer.relative_step) << "kohya's default";
}

TEST_F(ImportFolder, ARateForASelfTuningOptimizerIsNotGivenToAdamW) {
  const Imported imported =
      import_config({"flux_train_network.py", "--network_module=networks.lora_flux",
                     "--optimizer_type=DAdaptAdam", "--learning_rate=1"});
  EXPECT_EQ(imported.options.train.optimizer.optimizer, "adamw");
  EXPECT_DOUBLE_EQ(imported.options.train.schedule.learning_rate, 1e-4);
  EXPECT_THAT(would(imported, "optimizer_type"), HasSubstr("AdamW is used"));
}

/// The largest distance between the distribution function of the times that `options` draw and the
/// one of F u / (1 + (F - 1) u) with u uniform, which is t / (F - (F - 1) t).
double distance_to_shifted_uniform(const flow::TimestepOptions& options, double factor) {
  constexpr int kDraws = 200'000;
  std::vector<double> times(kDraws);
  for (int i = 0; i < kDraws; ++i) {
    Philox random(1, Draw::timestep, static_cast<uint32_t>(i));
    times[static_cast<size_t>(i)] = flow::draw_timestep(options, random, 1024);
  }
  std::sort(times.begin(), times.end());
  double largest = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double t = times[static_cast<size_t>(i)];
    largest = std::max(largest, std::abs((i + 0.5) / kDraws - t / (factor - (factor - 1) * t)));
  }
  return largest;
}

TEST_F(ImportFolder, KohyasSigmaTimesAreCloseToUniformOnesShifted) {
  // A normal draw times 1.702 for a logistic one: off by at most 0.0095, and the draws' own spread.
  const train::RunOptions o = example("kohya_ranks.sh").options;
  EXPECT_LT(distance_to_shifted_uniform(o.train.timestep, 3.0), 0.0095 + 0.004);
}

TEST_F(ImportFolder, KohyasLogitNormalIsShiftedExactly) {
  // sigma of -0.5 + 0.8 n shifted by 3 is sigma of ln 3 - 0.5 + 0.8 n.
  const train::RunOptions o = example("kohya_single_blocks.sh").options;
  EXPECT_EQ(o.train.timestep.sampling, "logit_normal");
  EXPECT_DOUBLE_EQ(o.train.timestep.logit_mean, std::log(3.0) - 0.5);
  EXPECT_EQ(o.train.timestep.logit_std, 0.8);
}

TEST_F(ImportFolder, WhatIsWrittenIsReadBackTheSame) {
  for (const auto& entry : fs::directory_iterator(kExamples)) {
    const std::string name = entry.path().filename().string();
    if (name == "kohya_dataset.toml" || name == "kohya_two_sizes.toml" ||
        name == "kohya_prompts.txt" || name.starts_with("diffusers_advanced"))
      continue;  // no model or no pictures: nothing that could be run alone
    const Imported imported = example(name);
    write_file_atomically(folder_ / "ours.toml", imported_toml(imported));
    train::RunOptions direct = load_config(folder_ / name);
    EXPECT_EQ(to_toml(load_config(folder_ / "ours.toml")), to_toml(direct)) << name;
  }
}

TEST(Import, ReadsTheWordsOfAShell) {
  TemporaryFolder folder;
  write_file_atomically(folder / "a.sh",
                        std::string_view("A='x y' # no\nB=\"$A\\\"z\"\n"
                                         "python run --a \"${B}\" --b=q\\\n  --c 1 2\n"));
  const std::vector<Command> commands = read_commands(folder / "a.sh");
  ASSERT_EQ(commands.size(), 3u);
  EXPECT_THAT(commands[2].words,
              ElementsAre("python", "run", "--a", "x y\"z", "--b=q", "--c", "1", "2"));
}

TEST(Import, YamlThatRepeatsItselfIsRefused) {
  TemporaryFolder folder;
  std::string text = "a0: &a0 {x: 1, y: 2}\n";
  for (int i = 1; i < 30; ++i) {
    text += fmt::format("a{0}: &a{0} {{x: *a{1}, y: *a{1}}}\n", i, i - 1);
  }
  write_file_atomically(folder / "a.yaml", text);
  EXPECT_ERROR(import_config({(folder / "a.yaml").string()}), bad_input, "a.yaml",
               "too deep or too long");
}

}  // namespace
}  // namespace fluxlora::config
