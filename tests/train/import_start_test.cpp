// SPDX-License-Identifier: Apache-2.0
// Every example configuration and documented command line of the peers, written after their
// documentation (tests/import/examples/), is translated and started: one step on the built-in
// model, straight from the foreign file.
#include <algorithm>
#include <filesystem>

#include "train/run_fixture.h"
#include "unit/run_program.h"

namespace fluxlora::train {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

/// What fits the built-in model and a second's time, in the place of FLUX.1's sizes.
constexpr const char* kSmall =
    " --set model.path=tiny --set model.vae= --set model.clip= --set model.t5= "
    "--set model.assistant_lora= --set model.precision=f32 --set model.text_tokens=16 "
    "--set dataset.resolution=64 --set train.steps=1 --set train.batch_size=1 "
    "--set train.accumulation=1 --set train.warmup=0 --set sample.every=0";

class ImportStart : public testing::TestWithParam<std::string> {};

std::vector<std::string> examples() {
  std::vector<std::string> names;
  for (const auto& entry :
       fs::directory_iterator(fs::path(FLUXLORA_SOURCE_DIR) / "tests/import/examples"))
    if (entry.path().filename() != "kohya_prompts.txt")
      names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST_P(ImportStart, IsTranslatedAndTrains) {
  const TemporaryFolder folder;
  fs::copy(fs::path(FLUXLORA_SOURCE_DIR) / "tests/import/examples", folder.path());
  paint_dataset(folder / "photos", 2);
  paint_dataset(folder / "photos/regularisation", 1, 5);
  paint_dataset(folder / "named/3_zorbot", 2);
  const std::string file = (folder / GetParam()).string();
  const std::string ours = (folder / "ours.toml").string();
  const Ran imported = run_program("import '" + file + "' --output '" + ours + "'", folder.path());
  ASSERT_EQ(imported.status, 0) << imported.err;
  EXPECT_THAT(imported.err, HasSubstr("settings from a configuration of"));

  // Folders with sizes of their own, and data sets of the hub, give way to one small folder.
  const std::string text = read_text(ours);
  const bool own_folders = text.find("[[dataset.folders]]") != std::string::npos &&
                           text.find("\nresolutions = ") == std::string::npos;
  std::string settings = kSmall;
  settings += " --set output.path='" + (folder / "run").string() + "'";
  settings += " --set dataset.cache='" + (folder / "cache").string() + "'";
  if (!own_folders) settings += " --set dataset.path='" + (folder / "photos").string() + "'";
  // A folder may have a trigger of its own where the subject has none.
  const size_t subject = text.find("[subject]");
  const std::string table =
      subject == std::string::npos ? "" : text.substr(subject, text.find("\n[", subject) - subject);
  if (table.find("\ntrigger = ") == std::string::npos) settings += " --set subject.trigger=zorbot";
  const Ran trained =
      run_program("train '" + file + "'" + settings + " --device cpu", folder.path());
  ASSERT_EQ(trained.status, 0) << trained.err;
  EXPECT_THAT(trained.err, HasSubstr("read as a configuration of"));
  EXPECT_TRUE(fs::exists(folder / "run/report.html"));
}

std::string test_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Examples, ImportStart, testing::ValuesIn(examples()), test_name);

}  // namespace
}  // namespace fluxlora::train
