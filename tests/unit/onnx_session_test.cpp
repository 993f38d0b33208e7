// SPDX-License-Identifier: Apache-2.0
// ONNX files through the runtime; where none is installed, what a person is told.
#include "caption/onnx_session.h"

#include <cstdlib>
#include <filesystem>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "unit/expect_error.h"
#include "unit/onnx_file.h"
#include "unit/temporary_folder.h"

namespace fluxlora::caption {
namespace {

using testing::ElementsAre;

/// y = a b with matrices of open sizes, twice = k + k in integers.
std::string product_and_double() {
  using namespace onnx_file;
  return model({node("MatMul", {"a", "b"}, "y"), node("Add", {"k", "k"}, "twice")},
               {value("a", kFloat, {-1, 2}), value("b", kFloat, {2, -1}), value("k", kInt64, {-1})},
               {value("y", kFloat, {-1, -1}), value("twice", kInt64, {-1})});
}

/// The runtime of the test environment, where scripts/test.sh --all made one.
std::optional<std::filesystem::path> runtime() {
  if (const char* folder = std::getenv("FLUXLORA_OPENVINO")) return folder;
  std::error_code ignored;
  for (const auto& python : std::filesystem::directory_iterator(
           std::filesystem::path(FLUXLORA_SOURCE_DIR) / ".venv-test/lib", ignored)) {
    const auto folder = python.path() / "site-packages/openvino/libs";
    if (std::filesystem::is_directory(folder)) return folder;
  }
  return std::nullopt;
}

class OnnxSessionTest : public testing::Test {
 protected:
  void SetUp() override {
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "the runtime is not ours to check, and keeps memory until the end";
#endif
    const auto found = runtime();
    if (!found) GTEST_SKIP() << "OpenVINO is not installed";
    setenv("FLUXLORA_OPENVINO", found->c_str(), 1);
  }
};

TEST_F(OnnxSessionTest, RunsAModelOfOpenSizes) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "m.onnx", product_and_double());
  OnnxSession session(folder / "m.onnx");
  ASSERT_EQ(session.inputs().size(), 3u);
  EXPECT_EQ(session.inputs()[0].name, "a");
  EXPECT_THAT(session.inputs()[0].shape, ElementsAre(-1, 2));
  for (const int64_t rows : {3, 1}) {  // again with other sizes
    OnnxTensors in;
    std::vector<float> a{1, 2, 3, 4, 5, 6};
    a.resize(static_cast<size_t>(rows) * 2);
    in["a"] = {{rows, 2}, a};
    in["b"] = {{2, 1}, std::vector<float>{10, 100}};
    in["k"] = {{2}, std::vector<int64_t>{int64_t{1} << 29, -3}};
    const OnnxTensors out = session.run(in, {"y", "twice"});
    std::vector<float> product{210, 430, 650};
    product.resize(static_cast<size_t>(rows));
    EXPECT_THAT(out.at("y").shape, ElementsAre(rows, 1));
    EXPECT_EQ(out.at("y").floats(), product);
    EXPECT_EQ(std::get<std::vector<int64_t>>(out.at("twice").values),
              (std::vector<int64_t>{int64_t{1} << 30, -6}));
  }
}

TEST_F(OnnxSessionTest, SaysWhatIsWrongWithAnInput) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "m.onnx", product_and_double());
  OnnxSession session(folder / "m.onnx");
  OnnxTensors in;
  EXPECT_ERROR(session.run(in, {"y", "twice"}), bad_input, "m.onnx", "it has a, b, k");
  in["a"] = {{1, 3}, std::vector<float>{1, 2, 3}};
  in["b"] = {{2, 1}, std::vector<float>{10, 100}};
  in["k"] = {{1}, std::vector<int64_t>{1}};
  EXPECT_ERROR(session.run(in, {"y", "twice"}), bad_input, "m.onnx",
               "does not take a of shape (1, 3)");
  in["a"] = {{1, 2}, std::vector<float>{1, 2}};
  EXPECT_ERROR(session.run(in, {"z"}), bad_input, "m.onnx", "gives no z");
}

TEST_F(OnnxSessionTest, SaysWhatIsWrongWithAFile) {
  const TemporaryFolder folder;
  EXPECT_ERROR(OnnxSession(folder / "none.onnx"), bad_input, "none.onnx", "");
  write_file_atomically(folder / "text.onnx", std::string_view("version https://git-lfs"));
  EXPECT_ERROR(OnnxSession(folder / "text.onnx"), bad_input, "text.onnx", "is not an ONNX file");
}

TEST(OnnxRuntimeDeathTest, ItsAbsenceIsSaidInWords) {
  // In a process of its own, started afresh: the library is loaded once, with threads.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        setenv("FLUXLORA_OPENVINO", "/nonexistent", 1);
        try {
          const OnnxSession session("any.onnx");
        } catch (const Error& error) {
          std::fputs(error.two_lines().c_str(), stderr);
          std::exit(static_cast<int>(error.kind()));
        }
        std::exit(0);
      },
      testing::ExitedWithCode(3),
      "holds no libopenvino_c.so\nhint: python3 -m pip install openvino");
}

}  // namespace
}  // namespace fluxlora::caption
