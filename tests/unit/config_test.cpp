// SPDX-License-Identifier: Apache-2.0
// Configuration: values and their places, mistakes and their positions, overrides, round trips.
#include "config/config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "config/keys.h"
#include "config/values.h"
#include "unit/expect_error.h"
#include "unit/temporary_folder.h"

namespace fluxlora::config {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kSmallest = R"([model]
path = "tiny"
[subject]
trigger = "zorbot"
[dataset]
path = "photos/"
)";

class Config : public ::testing::Test {
 protected:
  fs::path file(const std::string& text) const {
    const fs::path path = folder_ / "photos.toml";
    write_file_atomically(path, std::string_view(text));
    return path;
  }
  train::RunOptions load(const std::string& text, const std::vector<std::string>& sets = {}) const {
    return load_config(file(text), sets);
  }

  TemporaryFolder folder_;
};

TEST_F(Config, TheSmallestFileHasTheDefaultsOfTheDesign) {
  const train::RunOptions o = load(kSmallest);
  EXPECT_EQ(o.model.path, "tiny");
  EXPECT_EQ(o.subject.trigger, "zorbot");
  ASSERT_EQ(o.dataset.folders.size(), 1u);
  EXPECT_EQ(o.dataset.folders[0].path, folder_.path() / "photos/");
  EXPECT_EQ(o.output.path, fs::path("runs/my_lora"));
  EXPECT_EQ(o.dataset.resolution, 0) << "the model's own";
  EXPECT_EQ(o.lora.rank, 16);
  EXPECT_EQ(o.lora.alpha, 16);
  EXPECT_THAT(o.lora.targets, ElementsAre("default"));
  EXPECT_EQ(o.train.schedule.learning_rate, 1e-4);
  EXPECT_EQ(o.train.steps, 2000);
  EXPECT_EQ(o.train.batch_size, 1);
  EXPECT_EQ(o.train.guidance, 1);
  EXPECT_EQ(o.train.caption_dropout, 0.05);
  EXPECT_EQ(o.train.optimizer.optimizer, "adamw");
  EXPECT_EQ(o.train.optimizer.max_grad_norm, 1);
  EXPECT_EQ(o.train.timestep.sampling, "sigmoid");
  EXPECT_EQ(o.sample.every, 250);
  EXPECT_EQ(o.output.checkpoint_every, 250);
  EXPECT_EQ(o.output.keep, 3);
}

TEST_F(Config, ReadsEveryTypeOfValue) {
  const train::RunOptions o = load(R"([model]
path = "models/dev"
[subject]
name = "bot"
trigger = "  zorbot "
kind = "style"
[lora]
alpha = 8          # a whole number where a decimal one is expected
targets = "kohya"  # one text where a list is expected
[sample]
prompts = ["[trigger] in a wood", ""]
[output]
path = "here"
metadata_dates = true
[dataset]
cache = "../cache"
[[dataset.folders]]
path = "a"
repeats = 3
trigger = ""
weight = 0.5
resolutions = [64, 128]
[[dataset.folders]]
path = "/absolute/b"
regularisation = true
resolutions = 96
)");
  EXPECT_EQ(o.model.path, (folder_ / "models/dev").string());
  EXPECT_EQ(o.subject.trigger, "zorbot");
  EXPECT_EQ(o.subject.kind, "style");
  EXPECT_EQ(o.lora.alpha, 8);
  EXPECT_THAT(o.lora.targets, ElementsAre("kohya"));
  EXPECT_THAT(o.sample.prompts, ElementsAre("[trigger] in a wood", ""));
  EXPECT_EQ(o.output.path, fs::path("here"));
  EXPECT_TRUE(o.output.metadata_dates);
  EXPECT_EQ(o.dataset.cache, (folder_.path() / "../cache").lexically_normal());
  ASSERT_EQ(o.dataset.folders.size(), 2u);
  EXPECT_EQ(o.dataset.folders[0].path, folder_ / "a");
  EXPECT_EQ(o.dataset.folders[0].repeats, 3);
  EXPECT_EQ(o.dataset.folders[0].trigger, "");
  EXPECT_EQ(o.dataset.folders[0].weight, 0.5);
  EXPECT_THAT(o.dataset.folders[0].resolutions, ElementsAre(64, 128));
  EXPECT_EQ(o.dataset.folders[1].path, fs::path("/absolute/b"));
  EXPECT_EQ(o.dataset.folders[1].trigger, std::nullopt);
  EXPECT_TRUE(o.dataset.folders[1].regularisation);
  EXPECT_THAT(o.dataset.folders[1].resolutions, ElementsAre(96));
}

TEST_F(Config, AFolderNamedTinyIsNotTheBuiltInModel) {
  const std::string rest = "[subject]\ntrigger = \"t\"\n[dataset]\npath = \"p\"\n";
  EXPECT_EQ(load("[model]\npath = \"./tiny\"\n" + rest).model.path, (folder_ / "tiny").string());
  EXPECT_EQ(load("[model]\npath = \"x\"\n" + rest, {"model.path=./tiny"}).model.path, "./tiny");
}

// ---- mistakes -----------------------------------------------------------------------------------

/// A line that is added to a table of the smallest file, and what must be said about it.
struct Mistake {
  std::string table, line, what, hint;
};

void PrintTo(const Mistake& mistake, std::ostream* out) {
  *out << "[" << mistake.table << "] " << mistake.line;
}

class Mistakes : public Config, public ::testing::WithParamInterface<Mistake> {};

TEST_P(Mistakes, AreNamedWithTheirPlaceAndARemedy) {
  const Mistake& mistake = GetParam();
  const std::string header = "[" + mistake.table + "]\n";
  std::string text = kSmallest;
  if (text.find(header) == std::string::npos) text += header;
  // Two spaces before the key, which so stands at column 3 of the line after the header.
  text.insert(text.find(header) + header.size(), "  " + mistake.line + "\n");
  const auto before = text.begin() + static_cast<std::ptrdiff_t>(text.find(mistake.line));
  const auto line = 1 + std::count(text.begin(), before, '\n');
  const fs::path path = file(text);
  try {
    load_config(path);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    EXPECT_EQ(error.where(), fmt::format("{}:{}:3", path.string(), line));
    EXPECT_EQ(error.message(), mistake.what);
    EXPECT_THAT(error.hint(), HasSubstr(mistake.hint));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, Mistakes,
    ::testing::Values(
        Mistake{"train", "learning_rat = 1", "unknown key \"learning_rat\" in [train]",
                "did you mean \"learning_rate\"?"},
        Mistake{"train", "rank = 4", "unknown key \"rank\" in [train]", "it belongs in [lora]"},
        Mistake{"lora", "captoin_dropout = 0.1", "unknown key \"captoin_dropout\" in [lora]",
                "did you mean \"caption_dropout\" in [train]?"},
        Mistake{"dataset", "repeats = 2", "unknown key \"repeats\" in [dataset]",
                "it belongs in [[dataset.folders]]"},
        Mistake{"lora", "xyzzy = 0.1", "unknown key \"xyzzy\" in [lora]",
                "[lora] has the keys type, factor, rank, "},
        Mistake{"train", "steps = \"many\"", "train.steps is text, it should be a whole number",
                "write steps ="},
        Mistake{"train", "steps = 10.5",
                "train.steps is a decimal number, it should be a whole number", "write steps ="},
        Mistake{"train", "guidance = true",
                "train.guidance is true or false, it should be a number", "write guidance ="},
        Mistake{"output", "metadata_dates = 1",
                "output.metadata_dates is a whole number, it should be true or false", "true"},
        Mistake{"sample", "prompts = [1]", "sample.prompts is a whole number, it should be text",
                "write prompts ="},
        Mistake{"subject", "name = 2024-01-01", "subject.name is a date or time, it should be text",
                "\"...\""},
        Mistake{"train", "optimizer = { name = \"adamw\" }",
                "train.optimizer is a table, it should be text", "write optimizer ="},
        Mistake{"lora", "rank = -4", "lora.rank is -4, out of range",
                "give a whole number from 1 to 4096"},
        Mistake{"lora", "rank = 0", "lora.rank is 0, out of range", "from 1"},
        Mistake{"lora", "alpha = 0", "lora.alpha is 0, out of range", "give a number above 0"},
        Mistake{"lora", "alpha = nan", "lora.alpha is nan, out of range", "above 0"},
        Mistake{"train", "logit_mean = inf", "train.logit_mean is inf, out of range",
                "give a finite number"},
        Mistake{"train", "steps = 0", "train.steps is 0, out of range", "from 1"},
        Mistake{"train", "beta2 = 1", "train.beta2 is 1, out of range", "from 0 to below 1"},
        Mistake{"train", "caption_dropout = 1.5", "train.caption_dropout is 1.5, out of range",
                "give a number from 0 to 1"},
        Mistake{"train", "seed = -1", "train.seed is -1, out of range", "0 or more"},
        Mistake{"dataset", "resolution = 100", "dataset.resolution is 100, not a multiple of 16",
                "give a multiple of 16 from 16 to 8192, or 0"},
        Mistake{"dataset", "resolution = 16384", "dataset.resolution is 16384, out of range",
                "to 8192"},
        Mistake{"lora", "init = \"zeros\"", "lora.init is \"zeros\", which it does not take",
                "give kaiming, gaussian, pissa or lora_ga"},
        Mistake{"lora", "targets = []", "lora.targets is empty, so there would be nothing to train",
                "default"},
        Mistake{"model", "precision = \"fp4\"",
                "model.precision is \"fp4\", which it does not take",
                "give auto, f32, bf16, fp8, int8 or nf4"},
        Mistake{"output", "format = \"koya\"", "output.format is \"koya\", which it does not take",
                "give diffusers, kohya"},
        Mistake{"subject", "name = \"a/b\"", "subject.name cannot be the name of a file",
                "letters"},
        Mistake{"subject", "name = \"\"", "subject.name cannot be the name of a file", "letters"},
        Mistake{"subject", "name = \"..\"", "subject.name cannot be the name of a file", "letters"},
        Mistake{"sample", "prompts = [\"a\\u0000b\"]", "sample.prompts holds a zero byte",
                "remove"}));

TEST_F(Config, TablesThatAreUnknownMisplacedOrPlanned) {
  EXPECT_ERROR(load(std::string(kSmallest) + "[trian]\nsteps = 1\n"), bad_input, "photos.toml:7:2",
               "unknown table [trian]");
  EXPECT_ERROR(load(std::string("rank = 3\n") + kSmallest), bad_input, "photos.toml:1:1",
               "the key \"rank\" stands outside of its table");
  EXPECT_ERROR(load(std::string(kSmallest) + "[train]\ndeterministic = true\n"), bad_input,
               "photos.toml:8:1", "train.deterministic is not supported yet");
  EXPECT_ERROR(load(std::string(kSmallest) + "[[train]]\nsteps = 16\n"), bad_input,
               "photos.toml:7:3", "train should be one table");
  EXPECT_ERROR(load(std::string("model = 3\n")), bad_input, "photos.toml:1:1",
               "model should be one table");
}

TEST_F(Config, FoldersAreCheckedOneByOne) {
  const std::string start = "[model]\npath = \"tiny\"\n[subject]\ntrigger = \"t\"\n";
  EXPECT_ERROR(load(start + "[[dataset.folders]]\nrepeats = 2\n"), bad_input, "photos.toml:5",
               "has no path");
  EXPECT_ERROR(load(start + "[[dataset.folders]]\npath = \"a\"\nweihgt = 2\n"), bad_input,
               "photos.toml:7:1", "unknown key \"weihgt\" in [[dataset.folders]]");
  EXPECT_ERROR(load(start + "[[dataset.folders]]\npath = \"a\"\nweight = 0\n"), bad_input,
               "photos.toml:7:1", "weight is 0, out of range");
  EXPECT_ERROR(load(start + "[[dataset.folders]]\npath = \"a\"\nresolutions = [64, 65]\n"),
               bad_input, "photos.toml:7:1", "resolutions is 65, not a multiple of 16");
  EXPECT_ERROR(load(start + "[[dataset.folders]]\npath = \"a\"\nunmasked_weight = 1\n"), bad_input,
               "photos.toml:7:1", "unmasked_weight is 1, out of range");
  EXPECT_ERROR(load(start + "[[dataset.folders]]\npath = \"a\"\ncaption_dropout = 1.5\n"),
               bad_input, "photos.toml:7:1", "caption_dropout is 1.5, out of range");
  EXPECT_ERROR(load(start + "[dataset]\nfolders = [\"a\"]\n"), bad_input, "photos.toml:6:1",
               "dataset.folders should be a list of tables");
  EXPECT_ERROR(load(start + "[dataset]\npath = \"a\"\n[[dataset.folders]]\npath = \"b\"\n"),
               bad_input, "photos.toml", "both dataset.path and [[dataset.folders]] are given");
}

TEST_F(Config, RequiredKeys) {
  EXPECT_ERROR(load(""), bad_input, "photos.toml", "model.path is missing");
  EXPECT_ERROR(load("[model]\npath = \"tiny\"\n"), bad_input, "photos.toml",
               "subject.trigger is missing");
  EXPECT_ERROR(load("[model]\npath = \"tiny\"\n[subject]\ntrigger = \"t\"\n"), bad_input,
               "photos.toml", "dataset.path is missing");
  EXPECT_ERROR(load("[subject]\ntrigger = \" \\t\"\n"), bad_input, "photos.toml:2:1",
               "subject.trigger is blank");
}

TEST_F(Config, TextThatIsNoToml) {
  EXPECT_ERROR(load("[model]\npath = tiny\n"), bad_input, "photos.toml:2:", "expected");
  EXPECT_ERROR(load("[model\n"), bad_input, "photos.toml:1:", "expected");
  EXPECT_ERROR(load("[train]\nsteps = 1\nsteps = 2\n"), bad_input, "photos.toml:3:", "steps");
  EXPECT_ERROR(load("[train]\nseed = 99999999999999999999\n"), bad_input,
               "photos.toml:2:", "64 bits");
  EXPECT_ERROR(load("[model]\npath = \"\xff\"\n"), bad_input, "photos.toml", "line 2");
  EXPECT_ERROR(load("a = " + std::string(100'000, '[')), bad_input, "photos.toml:1:", "");
  EXPECT_ERROR(load_config(folder_ / "none.toml"), bad_input, "none.toml", "does not exist");
  EXPECT_ERROR(load_config(folder_.path()), bad_input, folder_.path().string(), "is a folder");
}

// ---- overrides ----------------------------------------------------------------------------------

TEST_F(Config, SettingsOfTheCommandLineWin) {
  const train::RunOptions o =
      load(std::string(kSmallest) + "[train]\nsteps = 7\n",
           {"train.steps=500", "train.steps = 600", "lora.alpha=1e1", "subject.name=2024",
            "subject.trigger=a = b", "sample.prompts=[\"x\", \"y\"]", "lora.targets=kohya",
            "output.metadata_dates=true", "dataset.path=else/where", "output.path=out",
            "model.path=models/dev"});
  EXPECT_EQ(o.train.steps, 600);
  EXPECT_EQ(o.lora.alpha, 10);
  EXPECT_EQ(o.subject.name, "2024");
  EXPECT_EQ(o.subject.trigger, "a = b");
  EXPECT_THAT(o.sample.prompts, ElementsAre("x", "y"));
  EXPECT_THAT(o.lora.targets, ElementsAre("kohya"));
  EXPECT_TRUE(o.output.metadata_dates);
  ASSERT_EQ(o.dataset.folders.size(), 1u);
  EXPECT_EQ(o.dataset.folders[0].path, fs::path("else/where")) << "of the working directory";
  EXPECT_EQ(o.output.path, fs::path("out"));
  EXPECT_EQ(o.model.path, "models/dev");
}

TEST_F(Config, SettingsThatAreWrong) {
  const std::string text = kSmallest;
  EXPECT_ERROR(load(text, {"train.stesp=3"}), bad_input, "--set", "unknown key \"stesp\"");
  EXPECT_ERROR(load(text, {"trian.steps=3"}), bad_input, "--set", "unknown table [trian]");
  EXPECT_ERROR(load(text, {"steps=3"}), bad_input, "--set", "the key \"steps\" needs its table");
  EXPECT_ERROR(load(text, {"train.steps"}), bad_input, "--set", "\"train.steps\" gives no value");
  EXPECT_ERROR(load(text, {"=3"}), bad_input, "--set", "gives no value");
  EXPECT_ERROR(load(text, {""}), bad_input, "--set", "gives no value");
  EXPECT_ERROR(load(text, {"train.steps=many"}), bad_input, "--set", "train.steps is text");
  EXPECT_ERROR(load(text, {"train.steps="}), bad_input, "--set", "train.steps is text");
  EXPECT_ERROR(load(text, {"lora.rank=-1"}), bad_input, "--set", "lora.rank is -1, out of range");
  EXPECT_ERROR(load(text, {"train.steps=1\nseed=2"}), bad_input, "--set", "train.steps is text");
  EXPECT_ERROR(load(text, {"dataset.folders=[]"}), bad_input, "--set",
               "dataset.folders cannot be set on the command line");
  EXPECT_ERROR(load(text, {"train.deterministic=true"}), bad_input, "--set",
               "train.deterministic is not supported yet");
}

// ---- writing ------------------------------------------------------------------------------------

/// Options in which every key differs from its default, with texts that are hard to write.
train::RunOptions unusual() {
  train::RunOptions o = default_options();
  o.model.path = "models/d\"e\"v";
  o.model.vae = "/parts/ae.safetensors";
  o.model.clip = "/parts/clip_l.safetensors";
  o.model.t5 = "/parts/t5xxl.safetensors";
  o.model.clip_tokenizer = "/parts/clip";
  o.model.t5_tokenizer = "/parts/t5";
  o.model.assistant_lora = "/parts/assistant.safetensors";
  o.model.precision = "f32";
  o.model.text_precision = "fp8";
  o.model.text_tokens = 77;
  o.subject = {"naïve 'name'", "zor\"bot\\", "style"};
  FolderOptions first, second;
  first.path = "a b";
  first.trigger = "";
  first.caption = "it's a\nlong \t \"caption\" 絵";
  first.resolutions = {64, 128};
  second.path = "/b";
  second.repeats = 9;
  second.trigger = "other";
  second.regularisation = true;
  second.weight = 0.1;
  o.dataset.folders = {first, second};
  o.dataset.resolution = 256;
  o.dataset.cache = "/some/cache";
  o.dataset.max_upscale = 1.5;
  o.dataset.buckets = true;
  o.dataset.bucket_step = 32;
  o.lora = {"dora",
            4,
            3,
            1. / 3,
            {"*.attn.to_q", "single_blocks.*"},
            {"*.{3-7}.*"},
            {"*.attn.to_q = 5"},
            true,
            true,
            0.125,
            "input",
            "/some/lora.safetensors",
            "gaussian",
            "gd",
            9,
            3};
  o.train.steps = 12345678;
  o.train.batch_size = 2;
  o.train.accumulation = 3;
  o.train.seed = (int64_t{1} << 62) + 1;
  o.train.guidance = 3.5;
  o.train.caption_dropout = 0.1 + 0.2;
  o.train.timestep = {"logit_normal", 1.1, -0.25, 0.75, 2.5, 0.5, "bell"};
  o.train.optimizer = {"lion", 0.85, 0.95,  1e-10, 1e-300, 0,   true,
                       1e-5,   2,    false, false, 0.5,    true};
  o.train.schedule = {5e-324, "cosine", 10, 3, 4};
  o.train.loss = "huber";
  o.train.huber_c = 0.25;
  o.train.noise_offset = 0.05;
  o.memory = {"16GiB", "32 GiB"};
  o.train.preservation = 1;
  o.train.preservation_class = "person";
  o.train.b_ratio = 16;
  o.train.rates = {"single_transformer_blocks.* = 0.5"};
  o.train.max_time = 2.5;
  o.validate = {7, 3, 9, {"a 'cat'"}, false, {8, 0.125}, true};
  o.sample = {0, {"[trigger] 'x'", "", "''' \"\"\" \x7f"}, 5, 4, 1, 64, 96};
  o.output = {"out/put", 0, 1, "kohya", "bf16", true};
  return o;
}

TEST_F(Config, EveryKeyIsInTheTableOfTheUnusual) {
  // Keeps the round trip below honest: a new key must be given an unusual value there.
  const train::RunOptions defaults = default_options(), o = unusual();
  for (const RunKey& key : run_keys()) {
    if (key.kind == Kind::folder) continue;
    EXPECT_NE(value_text(defaults, key), value_text(o, key)) << key.full();
  }
}

TEST_F(Config, WhatIsWrittenLoadsTheSame) {
  const train::RunOptions o = unusual();
  const std::string text = to_toml(o);
  const train::RunOptions again = load(text);
  EXPECT_EQ(to_toml(again), text);
  EXPECT_EQ(first_difference(o, again), std::nullopt);
  EXPECT_EQ(again.train.schedule.learning_rate, o.train.schedule.learning_rate);
  EXPECT_EQ(again.train.caption_dropout, o.train.caption_dropout);
  EXPECT_EQ(again.train.seed, o.train.seed);
  EXPECT_EQ(again.lora.alpha, o.lora.alpha);
  EXPECT_EQ(again.sample.prompts, o.sample.prompts);
  EXPECT_EQ(again.dataset.folders[0].caption, o.dataset.folders[0].caption);
  EXPECT_EQ(again.dataset.folders[0].trigger, "");
  EXPECT_EQ(again.dataset.folders[0].path, fs::absolute("a b"));
  EXPECT_EQ(again.output.path, fs::absolute("out/put"));
}

TEST_F(Config, DefaultsAreWrittenOut) {
  const std::string text = to_toml(load(kSmallest));
  for (const RunKey& key : run_keys()) {
    if (key.kind == Kind::folder) continue;
    EXPECT_THAT(text, HasSubstr("\n" + key.name + " = ")) << key.full();
  }
  EXPECT_EQ(to_toml(load(text)), text);
}

TEST_F(Config, IdentityNamesContentAndNoPlace) {
  train::RunOptions o = unusual();
  const std::string text = identity_toml(o, "aaaa", "bbbb");
  for (const char* place : {"models", "a b", "\"/b\"", "/some/cache", "out/put", "path", "cache"})
    EXPECT_THAT(text, Not(HasSubstr(place)));
  EXPECT_THAT(text, HasSubstr("model = \"aaaa\"\ndataset = \"bbbb\"\n"));
  EXPECT_THAT(text, HasSubstr("\nalpha = 0.333"));
  o.model.path = "elsewhere";
  o.dataset.folders[0].path = "elsewhere";
  o.output.path = "elsewhere";
  o.dataset.cache = "elsewhere";
  EXPECT_EQ(identity_toml(o, "aaaa", "bbbb"), text);
  o.lora.rank += 1;
  EXPECT_NE(identity_toml(o, "aaaa", "bbbb"), text);
}

TEST_F(Config, TheFirstDifferenceIsNamed) {
  const train::RunOptions a = unusual();
  train::RunOptions b = a;
  EXPECT_EQ(first_difference(a, b), std::nullopt);
  b.output.path = "elsewhere";
  b.dataset.cache = "elsewhere";
  EXPECT_EQ(first_difference(a, b), std::nullopt) << "these say only where to put things";
  b.train.steps = 1;
  b.lora.rank = 4;
  auto found = first_difference(a, b);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->key, "lora.rank");
  EXPECT_EQ(found->a, "3");
  EXPECT_EQ(found->b, "4");
  b = a;
  b.dataset.folders[1].weight = 2;
  found = first_difference(a, b);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->key, "dataset.folders[1].weight");
  b.dataset.folders.pop_back();
  found = first_difference(a, b);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->key, "dataset.folders");
  b = a;
  b.model.path = "other";
  found = first_difference(a, b);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->key, "model.path");
}

}  // namespace
}  // namespace fluxlora::config
