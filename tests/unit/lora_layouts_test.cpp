// SPDX-License-Identifier: Apache-2.0
// LoRA files through other layouts and back, byte for byte; other ranks and sums against the
// changes themselves. tests/interop has the real key lists and other programs as readers.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "base/philox.h"
#include "export/lora_dialects.h"
#include "export/lora_rank.h"
#include "tensor/compare.h"
#include "unit/temporary_folder.h"

namespace fluxlora::exporting {
namespace {

constexpr int64_t kWidth = 8;

/// A file of random pairs.
class Pairs {
 public:
  explicit Pairs(uint64_t seed, DType dtype = DType::bf16)
      : dtype_(dtype), random_(seed, Draw::init) {}

  Pairs& add(const std::string& stem, int64_t rows, int64_t in, int64_t rank, double alpha) {
    add(stem + ".lora_down.weight", rank, in);
    add(stem + ".lora_up.weight", rows, rank);
    HostTensor value(dtype_, {1});
    convert(dtype_, value.view.data(), DType::f64, &alpha, 1);
    keep(stem + ".alpha", std::move(value), true);
    return *this;
  }
  LoraModules read() const {
    write_safetensors(folder_ / "a.safetensors", tensors_, {{"ss_network_dim", "4"}});
    return read_lora_modules(folder_ / "a.safetensors");
  }
  std::filesystem::path path(const char* name) const { return folder_ / name; }

 private:
  void add(const std::string& name, int64_t rows, int64_t columns) {
    HostTensor tensor(dtype_, {rows, columns});
    for (int64_t i = 0; i < rows * columns; ++i) {
      const double value = 0.1 * random_.normal();
      convert(dtype_, tensor.view.as<std::byte>() + i * dtype_size(dtype_), DType::f64, &value, 1);
    }
    keep(name, std::move(tensor), false);
  }
  void keep(const std::string& name, HostTensor tensor, bool scalar) {
    tensors_.push_back({name, tensor.view, scalar});
    memory_.push_back(std::move(tensor));
  }

  TemporaryFolder folder_;
  DType dtype_;
  Philox random_;
  std::vector<HostTensor> memory_;
  std::vector<NamedTensor> tensors_;
};

void expect_same_file(const std::filesystem::path& got, const std::filesystem::path& expected) {
  EXPECT_EQ(map_file(got).text(), map_file(expected).text()) << got;
}

TEST(LoraLayouts, FusedGoesThroughEveryLayoutAndBack) {
  Pairs pairs(1);
  pairs.add("lora_unet_double_blocks_0_img_attn_qkv", 3 * kWidth, kWidth, 4, 2)
      .add("lora_unet_double_blocks_0_img_mlp_0", 4 * kWidth, kWidth, 4, 2)
      .add("lora_unet_single_blocks_37_linear1", 7 * kWidth, kWidth, 4, 2)
      .add("lora_unet_final_layer_adaLN_modulation_1", 2 * kWidth, kWidth, 4, 2);
  const LoraModules start = pairs.read();
  EXPECT_EQ(dialect_of(start), "kohya");
  for (const std::string& layout : dialect_names()) {
    if (layout == "xlabs") continue;
    const Written written = write_lora(pairs.path("there"), start, layout, std::nullopt);
    EXPECT_EQ(written.rounding, 0) << layout;
    write_lora(pairs.path("back"), read_lora_modules(pairs.path("there")), "kohya", std::nullopt);
    expect_same_file(pairs.path("back"), pairs.path("a.safetensors"));
    std::filesystem::remove_all(pairs.path("there"));
  }
}

TEST(LoraLayouts, SplitBecomesBlockDiagonalAndSplitAgain) {
  Pairs pairs(2);
  for (const char* part : {"to_q", "to_k", "to_v"})
    pairs.add(std::string("lora_transformer_transformer_blocks_3_attn_") + part, kWidth, kWidth, 4,
              2);
  // q and v of unequal ranks, no k.
  pairs.add("lora_transformer_transformer_blocks_4_attn_to_q", kWidth, kWidth, 4, 2)
      .add("lora_transformer_transformer_blocks_4_attn_to_v", kWidth, kWidth, 8, 4);
  const LoraModules start = pairs.read();
  write_lora(pairs.path("k"), start, "kohya", std::nullopt);
  const LoraModules fused = read_lora_modules(pairs.path("k"));
  ASSERT_EQ(fused.modules.size(), 2u);
  EXPECT_EQ(fused.modules[0].rank, 12);
  EXPECT_EQ(fused.modules[1].rank, 12);
  const HostTensor whole = fused.modules[0].change();
  for (int64_t i = 0; i < 3; ++i)
    EXPECT_LT(relative_error(whole.view.slice(0, i * kWidth, kWidth),
                             start.modules[static_cast<size_t>(i)].change().view),
              1e-6);
  write_lora(pairs.path("back"), fused, "onetrainer", std::nullopt);
  expect_same_file(pairs.path("back"), pairs.path("a.safetensors"));
}

// XLabs adapts attention alone: q, k, v of a single block are some rows of linear1.
TEST(LoraLayouts, ProcessorsGoThroughKohya) {
  Pairs pairs(7);
  pairs.add("lora_unet_double_blocks_0_img_attn_qkv", 3 * kWidth, kWidth, 4, 4)
      .add("lora_unet_single_blocks_0_linear2", kWidth, 5 * kWidth, 4, 4);
  for (const char* part : {"to_q", "to_k", "to_v"})
    pairs.add(std::string("transformer.single_transformer_blocks.0.attn.") + part, kWidth, kWidth,
              2, 2);
  write_lora(pairs.path("x"), pairs.read(), "xlabs", std::nullopt);
  const LoraModules processors = read_lora_modules(pairs.path("x"));
  ASSERT_EQ(processors.modules.size(), 3u);
  EXPECT_EQ(dialect_of(processors), "xlabs");
  EXPECT_EQ(processors.modules[1].name, "single_blocks.0.processor.qkv_lora");
  EXPECT_EQ(processors.modules[1].rank, 6);
  write_lora(pairs.path("k"), processors, "kohya", std::nullopt);
  write_lora(pairs.path("back"), read_lora_modules(pairs.path("k")), "xlabs", std::nullopt);
  expect_same_file(pairs.path("back"), pairs.path("x"));
}

TEST(LoraLayouts, OddScalesRoundAndSaySo) {
  Pairs pairs(3);
  pairs.add("lora_unet_double_blocks_0_img_mlp_0", 4 * kWidth, kWidth, 3, 1);
  const LoraModules start = pairs.read();
  const Written written = write_lora(pairs.path("d"), start, "diffusers", std::nullopt);
  EXPECT_GT(written.rounding, 0);
  EXPECT_LT(written.rounding, 1.0 / 128);  // two roundings of bf16
  const LoraModules there = read_lora_modules(pairs.path("d"));
  EXPECT_LT(relative_error(there.modules[0].change().view, start.modules[0].change().view),
            1.0 / 256);
}

double squared(const Tensor& m) {
  double sum = 0;
  for (int64_t i = 0; i < m.size(); ++i) sum += double{m.as<float>()[i]} * m.as<float>()[i];
  return sum;
}

TEST(LoraRank, ResizeLosesWhatItSays) {
  Pairs pairs(4, DType::f32);
  pairs.add("lora_unet_double_blocks_0_img_mlp_0", 4 * kWidth, kWidth, 6, 3);
  const LoraModules file = pairs.read();
  HostTensor whole = file.modules[0].change();
  const double energy = squared(whole.view);
  double before = 0;
  for (const int64_t rank : {1, 3, 5}) {
    const CutLora cut = resize(file, {rank, 1});
    ASSERT_EQ(cut.lora.modules[0].rank, rank);
    const HostTensor part = cut.lora.modules[0].change();
    HostTensor lost = file.modules[0].change();
    for (int64_t i = 0; i < lost.view.size(); ++i)
      lost.view.as<float>()[i] -= part.view.as<float>()[i];
    // A cut of singular values is a projection: what stays and what goes add up.
    EXPECT_NEAR(squared(part.view) / energy, cut.kept, 1e-5);
    EXPECT_NEAR(squared(lost.view) / energy, 1 - cut.kept, 1e-5);
    EXPECT_GT(cut.kept, before);
    before = cut.kept;
  }
}

TEST(LoraRank, ConcatenationIsTheWeightedSum) {
  const std::string fused = "lora_unet_double_blocks_0_img_attn_qkv";
  const std::string part = "lora_transformer_transformer_blocks_0_attn_to_k";
  Pairs one(5, DType::f32), two(6, DType::f32);
  one.add(fused, 3 * kWidth, kWidth, 2, 1);
  two.add(part, kWidth, kWidth, 3, 3);
  std::vector<LoraModules> files;
  files.push_back(one.read());
  files.push_back(two.read());
  const CutLora sum = combine(files, {1, -0.5}, Combination::concatenate, {});
  ASSERT_EQ(sum.lora.modules.size(), 3u);  // q, k and v, since one file has k alone
  HostTensor expected(DType::f32, {kWidth, kWidth});
  const HostTensor whole = files[0].modules[0].change(), k = files[1].modules[0].change();
  for (int64_t i = 0; i < expected.view.size(); ++i)
    expected.view.as<float>()[i] =
        whole.view.slice(0, kWidth, kWidth).as<float>()[i] - 0.5F * k.view.as<float>()[i];
  EXPECT_LT(relative_error(sum.lora.modules[1].change().view, expected.view), 1e-6);
  // Rank 2 and rank 3 are all of it, so that a cut to 5 loses nothing.
  const CutLora cut = combine(files, {1, -0.5}, Combination::svd, {5, 1});
  EXPECT_NEAR(cut.kept, 1, 1e-12);
  EXPECT_LT(relative_error(cut.lora.modules[1].change().view, expected.view), 1e-5);
  EXPECT_THROW(combine(files, {1, 1}, Combination::linear, {}), Error);
}

}  // namespace
}  // namespace fluxlora::exporting
