// SPDX-License-Identifier: Apache-2.0
// Data goes one way: a room of src/ includes only rooms above it in the list (docs/design.md).
#include <optional>
#include <regex>

#include <gtest/gtest.h>

#include "unit/source_files.h"

namespace fluxlora {
namespace {

// The rooms in the order in which data passes through them.
const std::vector<std::string> kRooms{
    "base",    "tensor",    "ops",     "backend/cpu", "backend/cuda", "memory", "dist",
    "monitor", "tokenizer", "data",    "model",       "lora",         "flow",   "optim",
    "eval",    "export",    "caption", "prepare",     "train",        "config", "cli"};
const std::string kOpenDevice = "backend/open_device.cpp";

/// The room of a path below src/, as an index into kRooms.
std::optional<size_t> room_of(const std::string& path) {
  for (size_t i = 0; i < kRooms.size(); ++i) {
    if (path.starts_with(kRooms[i] + "/")) return i;
  }
  return std::nullopt;
}

/// What is wrong with `path` (below src/) including `included`; empty when nothing is.
std::string fault(const std::string& path, const std::string& included) {
  const auto to = room_of(included);
  if (!to) return "is in no room of docs/design.md";
  const bool to_backend = kRooms[*to].starts_with("backend/");
  if (path == kOpenDevice) return to_backend || *to <= 2 ? "" : "is below the backends";
  const auto from = room_of(path);
  if (!from) return "";  // reported once, by the test of the file itself
  if (*to == *from) return "";
  if (to_backend) return "is a backend, which only " + kOpenDevice + " may know";
  return *to < *from ? "" : "is below " + kRooms[*from];
}

std::vector<std::string> quoted_includes(const std::string& text) {
  static const std::regex kInclude("^[ \t]*#[ \t]*include[ \t]*\"([^\"]+)\"");
  std::vector<std::string> found;
  for (const std::string& line : lines_of(text)) {
    std::smatch match;
    if (std::regex_search(line, match, kInclude)) found.push_back(match[1]);
  }
  return found;
}

TEST(Layering, RoomsIncludeOnlyRoomsAboveThem) {
  const auto files = source_files({"src"}, {".h", ".cpp", ".cu", ".cuh"});
  ASSERT_GT(files.size(), 30u);
  int includes = 0;
  for (const SourceFile& file : files) {
    const std::string path = file.path.substr(std::string("src/").size());
    EXPECT_TRUE(room_of(path) || path == kOpenDevice || path.starts_with("backend/cuda_absent"))
        << file.path << " is in no room of docs/design.md";
    for (const std::string& included : quoted_includes(file.text)) {
      ++includes;
      EXPECT_EQ(fault(path, included), "") << file.path << " includes " << included;
      EXPECT_TRUE(
          std::filesystem::exists(std::filesystem::path(FLUXLORA_SOURCE_DIR) / "src" / included))
          << file.path << " includes " << included << ", which is not below src/";
    }
  }
  EXPECT_GT(includes, 100);
}

TEST(Layering, TheRuleFindsWhatItForbids) {
  EXPECT_EQ(fault("model/flux/x.cpp", "ops/ops.h"), "");
  EXPECT_EQ(fault("model/flux/x.cpp", "model/clip/y.h"), "");
  EXPECT_EQ(fault("backend/open_device.cpp", "backend/cpu/cpu_device.h"), "");
  EXPECT_NE(fault("ops/x.cpp", "model/flux/config.h"), "");
  EXPECT_NE(fault("data/x.cpp", "train/trainer.h"), "");
  EXPECT_NE(fault("train/x.cpp", "backend/cpu/cpu_device.h"), "");
  EXPECT_NE(fault("backend/open_device.cpp", "memory/arena.h"), "");
  EXPECT_NE(fault("train/x.cpp", "nowhere/x.h"), "");
  EXPECT_EQ(quoted_includes("#include <a>\n  #include \"b/c.h\"\n// #include \"d\"\n").size(), 1u);
}

}  // namespace
}  // namespace fluxlora
