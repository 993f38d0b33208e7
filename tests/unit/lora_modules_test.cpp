// SPDX-License-Identifier: Apache-2.0
// Reading LoRA files of any layout: every spelling of a layer, and what the matrices mean.
#include "export/lora_modules.h"

#include <cmath>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "unit/temporary_folder.h"

namespace fluxlora::exporting {
namespace {

using ::testing::HasSubstr;

/// A file in the making; numbers are sines, so that no two agree.
class File {
 public:
  File& add(const std::string& name, std::initializer_list<int64_t> shape,
            DType type = DType::f32) {
    HostTensor numbers(DType::f32, shape);
    for (int64_t i = 0; i < numbers.view.size(); ++i)
      numbers.view.as<float>()[i] = static_cast<float>(std::sin(0.7 * ++seed_));
    HostTensor tensor(type, shape);
    convert(type, tensor.view.data(), DType::f32, numbers.view.data(), numbers.view.size());
    tensors_.push_back({name, tensor.view});
    memory_.push_back(std::move(tensor));
    return *this;
  }
  File& scalar(const std::string& name, float value) {
    HostTensor tensor(DType::f32, {1});
    tensor.view.as<float>()[0] = value;
    tensors_.push_back({name, tensor.view, true});
    memory_.push_back(std::move(tensor));
    return *this;
  }
  File& metadata(const std::string& key, const std::string& value) {
    metadata_[key] = value;
    return *this;
  }
  LoraModules read(const std::string& name = "lora.safetensors") const {
    write_safetensors(*folder_ / name, tensors_, metadata_);
    return read_lora_modules(*folder_ / name);
  }
  std::string error() const {
    try {
      read();
    } catch (const Error& error) {
      return error.message();
    }
    return "";
  }
  const Tensor& operator[](size_t i) const { return tensors_[i].view; }
  std::filesystem::path path(const std::string& name) const { return *folder_ / name; }

 private:
  std::unique_ptr<TemporaryFolder> folder_ = std::make_unique<TemporaryFolder>();
  std::vector<HostTensor> memory_;
  std::vector<NamedTensor> tensors_;
  std::map<std::string, std::string> metadata_;
  int seed_ = 0;
};

/// scale B A at (row, column), in double.
double product(const Tensor& a, const Tensor& b, int64_t row, int64_t column, double scale) {
  double sum = 0;
  for (int64_t r = 0; r < a.dim(0); ++r)
    sum += double{b.as<float>()[row * b.dim(1) + r]} * a.as<float>()[r * a.dim(1) + column];
  return scale * sum;
}

// The spellings are those of flux-facts 3.1 to 3.6 and OneTrainer's key tables (its
// modules/util/convert/lora/convert_flux_lora.py).
TEST(LoraNames, EverySpellingOfALayerMeansTheSame) {
  const LoraNames names{flux::Config{}};
  const auto same = [&](const std::string& layer, size_t first, size_t count,
                        const std::vector<const char*>& stems) {
    for (const char* stem : stems) {
      const auto place = names.find(stem);
      ASSERT_TRUE(place.has_value()) << stem;
      EXPECT_EQ(place->layer.bfl, layer) << stem;
      EXPECT_EQ(place->first, first) << stem;
      EXPECT_EQ(place->count, count) << stem;
    }
  };
  same("double_blocks.12.img_attn.qkv", 0, 3,
       {"lora_unet_double_blocks_12_img_attn_qkv", "diffusion_model.double_blocks.12.img_attn.qkv",
        "base_model.model.double_blocks.12.img_attn.qkv", "double_blocks.12.img_attn.qkv",
        "double_blocks.12.processor.qkv_lora1"});
  same("double_blocks.12.txt_attn.qkv", 2, 1,
       {"transformer.transformer_blocks.12.attn.add_v_proj",
        "base_model.model.transformer_blocks.12.attn.add_v_proj",
        "transformer_blocks.12.attn.add_v_proj", "lycoris_transformer_blocks_12_attn_add_v_proj",
        "lora_transformer_transformer_blocks_12_attn_add_v_proj",
        "lora_transformer.transformer_blocks.12.attn.add_v_proj",
        "transformer.double_blocks.12.txt_attn.qkv.2"});
  same("single_blocks.3.linear1", 0, 3,
       {"single_blocks.3.processor.qkv_lora", "diffusion_model.single_blocks.3.linear1_qkv"});
  same("single_blocks.3.linear1", 3, 1,
       {"transformer.single_transformer_blocks.3.proj_mlp",
        "transformer.single_blocks.3.linear1.3"});
  same("img_in", 0, 1, {"lora_unet_img_in", "transformer.x_embedder", "transformer.img_in.proj"});
  same("final_layer.adaLN_modulation.1", 0, 1,
       {"lora_unet_final_layer_adaLN_modulation_1", "transformer.norm_out.linear"});
  same("text_model.encoder.layers.11.mlp.fc1", 0, 1,
       {"text_encoder.text_model.encoder.layers.11.mlp.fc1",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.11.mlp.fc1",
        "lora_te1_text_model_encoder_layers_11_mlp_fc1",
        "clip_l.text_model.encoder.layers.11.mlp.fc1", "text_encoder.encoder.layers.11.mlp.fc1"});
  same("encoder.block.23.layer.1.DenseReluDense.wi_0", 0, 1,
       {"lora_te3_encoder_block_23_layer_1_DenseReluDense_wi_0",
        "lora_te2_encoder_block_23_layer_1_DenseReluDense_wi_0",
        "text_encoders.t5xxl.transformer.encoder.block.23.layer.1.DenseReluDense.wi_0",
        "t5.encoder.block.23.layer.1.DenseReluDense.wi_0"});
  EXPECT_TRUE(names.find("transformer.norm_out.linear")->swapped);
  EXPECT_FALSE(names.find("lora_unet_final_layer_adaLN_modulation_1")->swapped);
  for (const char* stem :
       {"lora_unet_down_blocks_0_attentions_0_proj_in", "transformer.x", "",
        "transformer_blocks.01.attn.to_q", "lora_te1_img_in", "transformer_blocks.99999.attn.to_q"})
    EXPECT_FALSE(names.find(stem).has_value()) << stem;
}

TEST(LoraModules, KohyaAlphaAndFusedRows) {
  File file;
  file.add("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", {2, 8}, DType::f32)
      .add("lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight", {24, 2}, DType::f32)
      .scalar("lora_unet_double_blocks_0_img_attn_qkv.alpha", 5);
  const LoraModules read = file.read();
  ASSERT_EQ(read.modules.size(), 1u);
  const LoraModule& module = read.modules[0];
  EXPECT_EQ(module.alpha, 5);
  EXPECT_EQ(module.rank, 2);
  EXPECT_EQ(read.sizes.D(), 8);
  EXPECT_TRUE(module.place.whole());
  const HostTensor change = module.change();
  for (const int64_t row : {0, 23})
    EXPECT_NEAR(change.view.as<float>()[row * 8 + 7], product(file[0], file[1], row, 7, 2.5), 1e-6);
}

// Diffusers keeps scale before shift, BFL shift before scale.
TEST(LoraModules, DiffusersFinalLayerIsTurned) {
  File file;
  file.add("transformer.norm_out.linear.lora_A.weight", {1, 4})
      .add("transformer.norm_out.linear.lora_B.weight", {8, 1});
  const LoraModules read = file.read();
  const HostTensor change = read.modules[0].change();
  EXPECT_NEAR(change.view.as<float>()[0], product(file[0], file[1], 4, 0, 1), 1e-6);
  EXPECT_NEAR(change.view.as<float>()[7 * 4 + 3], product(file[0], file[1], 3, 3, 1), 1e-6);
}

TEST(LoraModules, DoraHasAMagnitude) {
  const std::string name = "lora_unet_double_blocks_0_img_attn_proj";
  File file;
  file.add(name + ".lora_down.weight", {2, 4}).add(name + ".lora_up.weight", {4, 2});
  file.add(name + ".dora_scale", {4, 1});
  const LoraModules read = file.read();
  ASSERT_TRUE(read.modules[0].is_dora());
  EXPECT_EQ(read.modules[0].magnitude.view.as<float>()[3], file[2].as<float>()[3]);
}

// The Kronecker product of LyCORIS: whole w1, w2 of two factors, alpha over the rank of those.
TEST(LoraModules, LokrIsAKroneckerProduct) {
  const std::string name = "lycoris_transformer_blocks_0_ff_net_2";
  File file;
  file.add(name + ".lokr_w1", {2, 4})
      .add(name + ".lokr_w2_a", {3, 2})
      .add(name + ".lokr_w2_b", {2, 6});
  file.scalar(name + ".alpha", 1);
  const LoraModules read = file.read();
  ASSERT_TRUE(read.modules[0].is_lokr());
  const HostTensor change = read.modules[0].change();
  ASSERT_EQ(change.view.dim(0), 6);
  ASSERT_EQ(change.view.dim(1), 24);
  for (const int64_t row : {0, 4})
    for (const int64_t column : {0, 23}) {
      const double w2 = product(file[2], file[1], row % 3, column % 6, 0.5);
      const double w1 = file[0].as<float>()[row / 3 * 4 + column / 6];
      EXPECT_NEAR(change.view.as<float>()[row * 24 + column], w1 * w2, 1e-6);
    }
}

TEST(LoraModules, PeftKeepsAlphaInItsConfiguration) {
  const std::string q = "transformer_blocks.0.attn.to_q", k = "transformer_blocks.0.attn.to_k";
  const auto add = [&](File& file, const std::string& prefix) {
    for (const std::string& module : {q, k})
      file.add(prefix + module + ".lora_A.weight", {4, 8})
          .add(prefix + module + ".lora_B.weight", {8, 4});
  };
  File in_metadata;
  add(in_metadata, "transformer.");
  in_metadata.metadata("lora_adapter_metadata",
                       R"({"transformer.lora_alpha": 2, "transformer.use_rslora": true,
                           "transformer.alpha_pattern": {"attn.to_k": 6}})");
  const LoraModules diffusers = in_metadata.read();
  EXPECT_DOUBLE_EQ(diffusers.modules[0].scale(), 1);  // 2 / sqrt(4)
  EXPECT_DOUBLE_EQ(diffusers.modules[1].scale(), 3);

  File folder;
  add(folder, "base_model.model.");
  std::ofstream(folder.path("adapter_config.json")) << R"({"r": 4, "lora_alpha": 8})";
  folder.read("adapter_model.safetensors");
  const LoraModules peft = read_lora_modules(folder.path(""));
  EXPECT_DOUBLE_EQ(peft.modules[0].scale(), 2);
}

TEST(LoraModules, WhatIsWrongIsNamed) {
  const std::string q = "transformer.transformer_blocks.0.attn.to_q";
  const auto pair = [&](const std::string& stem, int64_t rank = 2) {
    File file;
    file.add(stem + ".lora_A.weight", {rank, 8}).add(stem + ".lora_B.weight", {8, rank});
    return file;
  };
  EXPECT_EQ(pair(q).error(), "");
  EXPECT_THAT(pair(q).scalar(q + ".alpha", 0).error(), HasSubstr(q + ".alpha\" is 0"));
  EXPECT_THAT(pair(q).scalar(q + ".alpha", NAN).error(), HasSubstr("not finite"));
  EXPECT_THAT(pair(q).add(q + ".diff_b", {8}).error(), HasSubstr(q + ".diff_b\" is no part"));
  EXPECT_THAT(pair(q).add(q + ".lora_down.weight", {2, 8}).error(), HasSubstr("twice"));
  EXPECT_THAT(pair(q)
                  .add("transformer.double_blocks.0.img_attn.qkv.lora_A.weight", {2, 8})
                  .add("transformer.double_blocks.0.img_attn.qkv.lora_B.weight", {24, 2})
                  .error(),
              HasSubstr("change the same rows"));
  EXPECT_THAT(File().error(), HasSubstr("no LoRA"));
  EXPECT_THAT(File().add(q + ".alpha", {1}).error(), HasSubstr("stands alone"));
}

}  // namespace
}  // namespace fluxlora::exporting
