// SPDX-License-Identifier: Apache-2.0
// The command line: help, version, two-line errors with the nearest word, doctor.
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "unit/run_program.h"
#include "unit/temporary_folder.h"

namespace fluxlora {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class CommandLine : public ::testing::Test {
 protected:
  Ran run(const std::string& arguments) const { return run_program(arguments, folder_.path()); }

  /// Status 2, nothing on stdout, the two lines on stderr.
  void expect_error(const std::string& arguments, const std::string& error,
                    const std::string& hint) const {
    const Ran ran = run(arguments);
    EXPECT_EQ(ran.status, 2) << arguments;
    EXPECT_EQ(ran.out, "") << arguments;
    EXPECT_EQ(ran.err, "error: " + error + "\nhint: " + hint + "\n");
  }

  TemporaryFolder folder_;
};

/// The commands that the program's help lists, in their order.
std::vector<std::string> listed_commands(const std::string& help) {
  std::vector<std::string> names;
  std::istringstream lines(help.substr(help.find("Commands:")));
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line) && line.starts_with("  ")) {
    std::istringstream words(line);
    words >> names.emplace_back();
  }
  return names;
}

TEST_F(CommandLine, HelpShowsWhatExistsAndEachCommandHasAnExample) {
  const Ran help = run("--help");
  EXPECT_EQ(help.status, 0);
  EXPECT_EQ(help.err, "");
  const std::vector<std::string> commands = listed_commands(help.out);
  EXPECT_THAT(commands, ::testing::ElementsAre("train", "prepare", "plan", "sample", "evaluate",
                                               "inspect", "convert", "merge", "import", "resize",
                                               "combine", "extract", "card", "fetch", "doctor"));
  for (const std::string& command : commands) {
    const Ran one = run(command + " --help");
    EXPECT_EQ(one.status, 0) << command;
    EXPECT_THAT(one.out, HasSubstr("Example:\n  fluxlora " + command)) << command;
    EXPECT_THAT(one.out, HasSubstr("--help"));
  }
}

TEST_F(CommandLine, VersionIsOneLineForPrograms) {
  const Ran ran = run("--version");
  EXPECT_EQ(ran.status, 0);
  EXPECT_THAT(ran.out, ::testing::MatchesRegex("fluxlora [0-9]+\\.[0-9]+\\.[0-9]+\n"));
  EXPECT_EQ(ran.err, "");
}

TEST_F(CommandLine, MistakesAreTwoLinesWithTheNearestWord) {
  expect_error("", "fluxlora: no command was given", "fluxlora --help lists the commands");
  expect_error("trian x.toml", "fluxlora: unknown command \"trian\"", "did you mean train?");
  expect_error("xyzzy", "fluxlora: unknown command \"xyzzy\"",
               "fluxlora --help lists the commands");
  expect_error("--verson", "fluxlora: unknown option --verson", "did you mean --version?");
  expect_error("train x.toml --resum", "fluxlora train: unknown option --resum",
               "did you mean --resume?");
  expect_error("inspect --jsn x", "fluxlora inspect: unknown option --jsn", "did you mean --json?");
  expect_error("inspect", "fluxlora inspect: FILE is required",
               "fluxlora inspect --help shows what it takes");
  expect_error("inspect a b", "fluxlora inspect: does not know what to do with \"b\"",
               "fluxlora inspect --help shows what it takes");
  expect_error("train x.toml --device gpu",
               "fluxlora train: --device: \"gpu\" is not a device; give auto, cpu, cuda or cuda:N",
               "fluxlora train --help shows what it takes");
  for (const char* threads : {"0", "-1", "many", "1e9"})
    EXPECT_EQ(run(std::string("train x.toml --threads ") + threads).status, 2) << threads;
}

TEST_F(CommandLine, AConfigurationsMistakeHasItsLine) {
  const auto file = folder_ / "photos.toml";
  write_file_atomically(file, std::string_view("[train]\nlearning_rat = 1\n"));
  expect_error("train '" + file.string() + "'",
               file.string() + ":2:1: unknown key \"learning_rat\" in [train]",
               "did you mean \"learning_rate\"?");
}

TEST_F(CommandLine, DoctorTellsProgramsAndPeople) {
  const Ran ran = run("doctor --json");
  const auto json = nlohmann::json::parse(ran.out);
  EXPECT_EQ(ran.status, json.at("can_train").get<bool>() ? 0 : 3);
  EXPECT_EQ(ran.err, "");
  EXPECT_GE(json.at("cpu").at("threads").get<int>(), 1);
  EXPECT_THAT(json.at("build").at("blas").get<std::string>(), HasSubstr("OpenBLAS"));
  EXPECT_FALSE(json.at("build").at("cuda").get<bool>());
  std::vector<std::string> names;
  for (const auto& check : json.at("checks")) {
    names.push_back(check.at("name"));
    const std::string verdict = check.at("verdict");
    EXPECT_EQ(verdict == "ok", check.at("remedy") == "") << check.dump();
  }
  EXPECT_THAT(names, ::testing::ElementsAre("program", "cpu", "memory", "disk", "cache", "pictures",
                                            "gpu", "built-in model"));
  const Ran people = run("doctor");
  EXPECT_EQ(people.status, ran.status);
  for (const std::string& name : names) EXPECT_THAT(people.out, HasSubstr(name));
}

TEST_F(CommandLine, DoctorFindsWhatIsMissing) {
  const Ran model = run("doctor --json --model '" + (folder_ / "no-model").string() + "'");
  EXPECT_EQ(model.status, 3);
  const auto checks = nlohmann::json::parse(model.out).at("checks");
  EXPECT_EQ(checks.back().at("name"), "model");
  EXPECT_EQ(checks.back().at("verdict"), "problem");
  EXPECT_THAT(checks.back().at("text").get<std::string>(), HasSubstr("does not exist"));

  // A folder cannot be made below a file.
  write_file_atomically(folder_ / "file", std::string_view("x"));
  ::setenv("XDG_CACHE_HOME", (folder_ / "file").c_str(), 1);
  const Ran cache = run("doctor");
  ::unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(cache.status, 3);
  EXPECT_THAT(cache.out, HasSubstr("Training cannot run here yet"));
  EXPECT_THAT(cache.out, HasSubstr("-> set XDG_CACHE_HOME"));
}

TEST_F(CommandLine, AnErrorIsTwoLinesWhateverTheFileIsCalled) {
  expect_error("inspect \"$(printf 'a\\nb\\033[2J')\"", "a?b?[2J: does not exist",
               "check the path");
}

TEST_F(CommandLine, AFullOutputIsAnError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const Ran ran = run_program("doctor --json", folder_.path(), "/dev/full");
  EXPECT_THAT(ran.err, HasSubstr("error: standard output: cannot be written"));
  EXPECT_EQ(ran.status, 3);
}

}  // namespace
}  // namespace fluxlora
