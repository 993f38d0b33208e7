// SPDX-License-Identifier: Apache-2.0
// The safetensors format: round trips, the layout of the Python library, hostile files.
#include "tensor/safetensors.h"

#include <cstring>
#include <fstream>
#include <limits>

#include "base/file.h"
#include "unit/expect_error.h"
#include "unit/temporary_folder.h"

namespace fluxlora {
namespace {

std::string length_bytes(uint64_t length) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i));
  return bytes;
}

std::string file_of(const std::string& header, size_t data_bytes) {
  return length_bytes(header.size()) + header + std::string(data_bytes, '\1');
}

TEST(Safetensors, RoundTrip) {
  const TemporaryFolder folder;
  std::vector<float> a{1.5f, -2.25f, 3e-40f, std::numeric_limits<float>::infinity(), 0, -0.0f};
  std::vector<uint8_t> b{0, 255, 7};
  float alpha = 16;
  const auto path = folder / "x.safetensors";
  write_safetensors(path,
                    {{"z.bytes", Tensor(DType::u8, {3}, b.data())},
                     {"a.weight", Tensor(DType::f32, {2, 3}, a.data())},
                     {"alpha", Tensor(DType::f32, {1}, &alpha), true},
                     {"nothing", Tensor(DType::f32, {0, 4}, a.data())}},
                    {{"two", "zwei \"2\"\n"}, {"one", "eins"}});
  const SafetensorsFile file(path);
  EXPECT_EQ(file.names(), (std::vector<std::string>{"a.weight", "alpha", "nothing", "z.bytes"}));
  EXPECT_EQ(file.metadata().at("two"), "zwei \"2\"\n");
  EXPECT_EQ(file.metadata().size(), 2u);
  EXPECT_EQ(file.entry("a.weight").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file.entry("alpha").shape, std::vector<int64_t>{});
  EXPECT_EQ(file.entry("nothing").bytes, 0);
  EXPECT_EQ(std::memcmp(file.entry("a.weight").data, a.data(), 24), 0);
  EXPECT_EQ(file.read("alpha", DType::f64).view.as<double>()[0], 16);
  EXPECT_EQ(file.read("a.weight", DType::bf16).view.as<uint16_t>()[0], 0x3FC0);
  EXPECT_FALSE(file.contains("b"));
  EXPECT_ERROR(file.entry("b"), bad_input, "x.safetensors", "no tensor \"b\"");
  EXPECT_ERROR(file.read("z.bytes", DType::f32), bad_input, "x.safetensors", "type U8");
}

// The bytes that safetensors 0.8.0 writes for {"a": F32 [1], "b": BF16 [2]} with one entry of
// metadata: tests/interop/test_safetensors.py compares many more.
TEST(Safetensors, LayoutOfThePythonLibrary) {
  const TemporaryFolder folder;
  uint16_t b[2] = {0x3F80, 0x4000};
  float a = 1;
  write_safetensors(folder / "f",
                    {{"b", Tensor(DType::bf16, {2}, b)}, {"a", Tensor(DType::f32, {1}, &a)}},
                    {{"k", "v"}});
  const std::string header =
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
      R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]}})";
  const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  const std::string bytes =
      length_bytes(padded.size()) + padded + std::string("\x00\x00\x80\x3F\x80\x3F\x00\x40", 8);
  EXPECT_EQ(read_text(folder / "f", Encoding::any), bytes);
}

TEST(Safetensors, EqualContentGivesEqualBytes) {
  const TemporaryFolder folder;
  float x[2] = {1, 2};
  const NamedTensor a{"a", Tensor(DType::f32, {2}, x)}, b{"b", Tensor(DType::f32, {1, 1}, x)};
  write_safetensors(folder / "1", {a, b}, {});
  write_safetensors(folder / "2", {b, a}, {});
  EXPECT_EQ(read_text(folder / "1", Encoding::any), read_text(folder / "2", Encoding::any));
}

TEST(Safetensors, UnalignedDataIsReadToo) {
  const TemporaryFolder folder;
  const std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  ASSERT_NE(header.size() % 4, 0u);
  const float values[2] = {3, -4};
  std::string bytes = file_of(header, 8);
  std::memcpy(bytes.data() + bytes.size() - 8, values, 8);
  write_file_atomically(folder / "f", bytes);
  const SafetensorsFile file(folder / "f");
  EXPECT_EQ(file.read("a", DType::f64).view.as<double>()[1], -4);
  EXPECT_EQ(file.read("a", DType::f32).view.as<float>()[0], 3);
}

struct Hostile {
  const char* name;
  std::string bytes;
  const char* message;
};

std::string one_tensor(const std::string& info, size_t data_bytes) {
  return file_of("{\"t\":{" + info + "}}", data_bytes);
}

std::vector<Hostile> hostile_files() {
  const std::string t = R"("t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]})";
  const std::string u = R"("u":{"dtype":"U8","shape":[2],"data_offsets":)";
  return {
      {"empty", "", "shorter than 8 bytes"},
      {"short", "1234567", "shorter than 8 bytes"},
      {"text", "once upon a time there was no tensor", "at most 100000000"},
      {"huge_header", length_bytes(100'000'001) + "{}", "at most 100000000"},
      {"largest_length", length_bytes(~uint64_t{0}) + "{}", "at most 100000000"},
      {"truncated_header", length_bytes(500) + "{\"t\":", "ends inside its header"},
      {"no_header", length_bytes(0), "does not begin with {"},
      {"array_header", file_of("[]", 0), "does not begin with {"},
      {"bad_json", file_of("{\"t\":", 0), "not valid JSON"},
      {"trailing_json", file_of("{}{}", 0), "not valid JSON"},
      {"not_utf8", file_of("{\"\xFF\":1}", 0), "not valid JSON"},
      {"comment", file_of("{/* */}", 0), "not valid JSON"},
      {"deep", file_of("{\"t\":" + std::string(100'000, '['), 0), "nested too deeply"},
      {"twice", file_of("{" + t + "," + t + "}", 2), "has the name \"t\" twice"},
      {"key_twice", one_tensor(R"("dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0])", 0),
       "has the name \"dtype\" twice"},
      {"no_object", file_of("{\"t\":3}", 0), "has no list \"shape\""},
      {"no_dtype", one_tensor(R"("shape":[2],"data_offsets":[0,2])", 2), "has no \"dtype\""},
      {"dtype_number", one_tensor(R"("dtype":1,"shape":[2],"data_offsets":[0,2])", 2),
       "has no \"dtype\""},
      {"dtype", one_tensor(R"("dtype":"F7","shape":[2],"data_offsets":[0,2])", 2),
       "unknown type \"F7\""},
      {"no_shape", one_tensor(R"("dtype":"U8","data_offsets":[0,2])", 2), "has no list \"shape\""},
      {"negative", one_tensor(R"("dtype":"U8","shape":[-2],"data_offsets":[0,2])", 2),
       "bad number in \"shape\""},
      {"fraction", one_tensor(R"("dtype":"U8","shape":[2.0],"data_offsets":[0,2])", 2),
       "bad number in \"shape\""},
      {"too_large",
       one_tensor(R"("dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,2])", 2),
       "bad number in \"shape\""},
      // 2^32 * 2^32 = 0 in 64 bits
      {"overflow",
       one_tensor(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])", 0),
       "do not fit its shape"},
      {"mismatch", one_tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,2])", 2),
       "do not fit its shape"},
      {"one_offset", one_tensor(R"("dtype":"U8","shape":[2],"data_offsets":[2])", 2),
       "bad data_offsets"},
      {"backwards", one_tensor(R"("dtype":"U8","shape":[2],"data_offsets":[2,0])", 2),
       "bad data_offsets"},
      {"truncated_data", one_tensor(R"("dtype":"U8","shape":[4],"data_offsets":[0,4])", 3),
       "beyond the end of the file"},
      {"overlap", file_of("{" + t + "," + u + "[1,3]}}", 3), "overlaps another"},
      {"same_place", file_of("{" + t + "," + u + "[0,2]}}", 2), "overlaps another"},
      {"hole", file_of("{" + t + "," + u + "[3,5]}}", 5), "has a hole"},
      {"rest", file_of("{" + t + "}", 5), "has 3 bytes that belong to no tensor"},
      {"metadata_list", file_of("{\"__metadata__\":[]}", 0), "metadata is not an object"},
      {"metadata_number", file_of("{\"__metadata__\":{\"step\":3}}", 0),
       "metadata \"step\" is not a string"},
  };
}

TEST(Safetensors, HostileFilesAreErrors) {
  const TemporaryFolder folder;
  for (const Hostile& hostile : hostile_files()) {
    SCOPED_TRACE(hostile.name);
    const auto path = folder / (std::string(hostile.name) + ".safetensors");
    std::ofstream(path, std::ios::binary) << hostile.bytes;
    EXPECT_ERROR(SafetensorsFile{path}, bad_input, path.string(), hostile.message);
  }
}

TEST(Safetensors, EveryTruncationIsAnError) {
  const TemporaryFolder folder;
  float x[3] = {1, 2, 3};
  write_safetensors(folder / "f", {{"a", Tensor(DType::f32, {3}, x)}}, {{"k", "v"}});
  const std::string whole = read_text(folder / "f", Encoding::any);
  for (size_t length = 0; length < whole.size(); ++length) {
    std::ofstream(folder / "g", std::ios::binary) << whole.substr(0, length);
    EXPECT_THROW(SafetensorsFile{folder / "g"}, Error) << length;
  }
}

TEST(Safetensors, FiveDimensionsAreSeenButNotRead) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "f",
                        one_tensor(R"("dtype":"U8","shape":[1,1,1,1,2],"data_offsets":[0,2])", 2));
  const SafetensorsFile file(folder / "f");
  EXPECT_EQ(file.entry("t").shape.size(), 5u);
  EXPECT_ERROR(file.read("t", DType::u8), bad_input, "f", "more than four dimensions");
}

class SafetensorsShards : public ::testing::Test {
 protected:
  void SetUp() override {
    write_safetensors(folder_ / "m-1.safetensors", {{"a", Tensor(DType::f32, {1}, &x_)}}, {});
    write_safetensors(folder_ / "m-2.safetensors", {{"b", Tensor(DType::f32, {1}, &y_)}}, {});
  }
  void index(std::string_view json) {
    write_file_atomically(folder_ / "m.safetensors.index.json", json);
  }

  TemporaryFolder folder_;
  float x_ = 1, y_ = 2;
};

TEST_F(SafetensorsShards, AreOneSet) {
  index(R"({"metadata":{"total_size":8},)"
        R"("weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}})");
  const SafetensorsSet set(folder_.path(), "m");
  EXPECT_EQ(set.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(set.files().size(), 2u);
  EXPECT_EQ(set.read("b", DType::f32).view.as<float>()[0], 2);
  EXPECT_EQ(set.entry("a").bytes, 4);
  EXPECT_ERROR(set.entry("c"), bad_input, "m-1.safetensors", "no tensor \"c\"");
}

TEST_F(SafetensorsShards, ASingleFileComesFirst) {
  EXPECT_ERROR(SafetensorsSet(folder_.path(), "m"), bad_input, folder_.path().string(),
               "has no m.safetensors");
  write_safetensors(folder_ / "m.safetensors", {{"c", Tensor(DType::f32, {1}, &x_)}}, {});
  index(R"({"weight_map":{"a":"m-1.safetensors"}})");
  EXPECT_EQ(SafetensorsSet(folder_.path(), "m").names(), std::vector<std::string>{"c"});
}

TEST_F(SafetensorsShards, BadListsAreErrors) {
  const auto open = [&] { return SafetensorsSet(folder_.path(), "m"); };
  index(R"({"weight_map":{"a":"m-1.safetensors","b":"m-3.safetensors"}})");
  EXPECT_ERROR(open(), bad_input, folder_.path().string(), "lacks the file m-3.safetensors");
  index(R"({"weight_map":{"a":"../m-1.safetensors"}})");
  EXPECT_ERROR(open(), bad_input, "index.json", "leads out of its folder");
  index(R"({"weight_map":{"a":"x/../../m-1.safetensors"}})");
  EXPECT_ERROR(open(), bad_input, "index.json", "leads out of its folder");
  index(R"({"weight_map":{"a":"/etc/passwd"}})");
  EXPECT_ERROR(open(), bad_input, "index.json", "leads out of its folder");
  index(R"({"weight_map":{"b":"m-1.safetensors"}})");
  EXPECT_ERROR(open(), bad_input, "m-1.safetensors", "has no tensor \"b\"");
  index(R"({"weight_map":{"a":1}})");
  EXPECT_ERROR(open(), bad_input, "index.json", "names no file");
  index(R"({"weight_map":{}})");
  EXPECT_ERROR(open(), bad_input, "index.json", "lists no tensors");
  index(R"([])");
  EXPECT_ERROR(open(), bad_input, "index.json", "has no \"weight_map\"");
  index(R"({"weight_map")");
  EXPECT_ERROR(open(), bad_input, "index.json", "not valid JSON");
}

TEST(Safetensors, WritingSaysWhatIsWrong) {
  const TemporaryFolder folder;
  float x = 1;
  const Tensor view(DType::f32, {1}, &x);
  EXPECT_ERROR(write_safetensors(folder / "no" / "f", {{"a", view}}, {}), environment, "f",
               "its folder does not exist");
  EXPECT_ERROR(write_safetensors(folder / "f", {{"a", view}}, {{"k", "\xFF"}}), bad_input, "f",
               "not UTF-8");
  EXPECT_ERROR(write_safetensors(folder / "f", {{"a", view}, {"a", view}}, {}), internal, "",
               "name used twice");
  EXPECT_EQ(folder.count(), 0);
}

}  // namespace
}  // namespace fluxlora
