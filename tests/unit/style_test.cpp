// SPDX-License-Identifier: Apache-2.0
// What a machine can check of CONTRIBUTING.md: licence lines, sizes, forbidden words and types.
#include <regex>

#include <gtest/gtest.h>

#include "unit/source_files.h"

namespace fluxlora {
namespace {

constexpr size_t kMostLines = 600;

const std::vector<SourceFile>& all_files() {
  static const auto files = source_files({"src", "tests", "bench", "fuzz", "tools", "scripts"},
                                         {".h", ".cpp", ".cu", ".cuh", ".S", ".py", ".sh"});
  return files;
}

/// Number of the first line in which `pattern` is found, from 1; 0 when there is none.
size_t line_with(const std::string& text, const std::regex& pattern) {
  size_t number = 0;
  for (const std::string& line : lines_of(text)) {
    ++number;
    if (std::regex_search(line, pattern)) return number;
  }
  return 0;
}

// In two halves, so that this file does not hold what it forbids.
const std::regex kUnfinished(
    "\\b(TO"
    "DO|FIX"
    "ME|XX"
    "X)\\b");
const std::regex kCudaType(
    "\\b(cuda[A-Z]\\w*|cublas\\w*|cudnn\\w*|nccl[A-Z]\\w*|CU(stream|event|graph)\\w*)\\b");

TEST(Style, EveryFileSaysItsLicence) {
  ASSERT_GT(all_files().size(), 50u);
  for (const SourceFile& file : all_files()) {
    const auto lines = lines_of(file.text);
    const bool script = !lines.empty() && lines[0].starts_with("#!");
    const std::string first = lines.size() > script ? lines[script] : "";
    const std::string mark = std::filesystem::path(file.path).extension() == ".py" || script ||
                                     file.path.ends_with(".sh")
                                 ? "# "
                                 : "// ";
    EXPECT_EQ(first, mark + "SPDX-License-Identifier: Apache-2.0") << file.path;
  }
}

TEST(Style, NoFileIsLong) {
  for (const SourceFile& file : all_files()) {
    EXPECT_LE(lines_of(file.text).size(), kMostLines) << file.path;
  }
}

TEST(Style, NothingIsLeftUnfinished) {
  for (const SourceFile& file : all_files()) {
    EXPECT_EQ(line_with(file.text, kUnfinished), 0u) << file.path;
  }
  EXPECT_EQ(line_with("a\nint x;  // TO"
                      "DO: y\n",
                      kUnfinished),
            2u);
}

TEST(Style, CudaStaysInItsRooms) {
  for (const SourceFile& file : source_files({"src"}, {".h", ".cpp"})) {
    if (file.path.starts_with("src/backend/cuda/") || file.path == "src/dist/nccl.cpp") continue;
    EXPECT_EQ(line_with(file.text, kCudaType), 0u) << file.path;
  }
  EXPECT_EQ(line_with("  cuda"
                      "Stream_t stream;\n",
                      kCudaType),
            1u);
  EXPECT_EQ(line_with("--device cuda:0, backend/cuda\n", kCudaType), 0u);
}

}  // namespace
}  // namespace fluxlora
