// SPDX-License-Identifier: Apache-2.0
// `fluxlora inspect`: kinds of files, ranks and scales of both dialects, norms, dead and broken
// layers.
#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tensor/safetensors.h"
#include "unit/run_program.h"
#include "unit/temporary_folder.h"

namespace fluxlora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

/// A file in the making.
class Tensors {
 public:
  HostTensor& add(const std::string& name, int64_t rows, int64_t columns, double fill) {
    HostTensor& tensor =
        tensors_.emplace(name, HostTensor(DType::f32, {rows, columns})).first->second;
    for (int64_t i = 0; i < tensor.view.size(); ++i)
      tensor.view.as<float>()[i] =
          static_cast<float>(std::isnan(fill) ? std::sin(0.7 * ++seed_) : fill);
    return tensor;
  }
  void add_scalar(const std::string& name, double value) {
    tensors_.emplace(name, HostTensor(DType::f32, {1})).first->second.view.as<float>()[0] =
        static_cast<float>(value);
    scalars_.push_back(name);
  }
  void write(const std::filesystem::path& path,
             const std::map<std::string, std::string>& metadata = {}) const {
    std::vector<NamedTensor> named;
    for (const auto& [name, tensor] : tensors_)
      named.push_back(
          {name, tensor.view, std::find(scalars_.begin(), scalars_.end(), name) != scalars_.end()});
    write_safetensors(path, std::move(named), metadata);
  }
  const Tensor& operator[](const std::string& name) const { return tensors_.at(name).view; }

 private:
  std::map<std::string, HostTensor> tensors_;
  std::vector<std::string> scalars_;
  int seed_ = 0;
};

constexpr double kRandom = std::numeric_limits<double>::quiet_NaN();

/// |scale B A| by forming the product.
double norm_of_product(const Tensor& a, const Tensor& b, double scale) {
  double sum = 0;
  for (int64_t o = 0; o < b.dim(0); ++o)
    for (int64_t i = 0; i < a.dim(1); ++i) {
      double entry = 0;
      for (int64_t r = 0; r < a.dim(0); ++r)
        entry += double{b.as<float>()[o * b.dim(1) + r]} * a.as<float>()[r * a.dim(1) + i];
      sum += entry * entry;
    }
  return std::abs(scale) * std::sqrt(sum);
}

class Inspect : public ::testing::Test {
 protected:
  Json inspect(const Tensors& tensors, const std::map<std::string, std::string>& metadata = {}) {
    tensors.write(file_, metadata);
    const Ran ran = run_program("inspect --json '" + file_.string() + "'", folder_.path());
    EXPECT_EQ(ran.status, 0) << ran.err;
    EXPECT_EQ(ran.err, "");
    return Json::parse(ran.out);
  }

  TemporaryFolder folder_;
  const std::filesystem::path file_ = folder_ / "lora.safetensors";
};

TEST_F(Inspect, DiffusersLora) {
  Tensors t;
  for (const char* block : {"0", "2", "10"}) {
    const std::string module = std::string("transformer.transformer_blocks.") + block;
    t.add(module + ".attn.to_q.lora_A.weight", 3, 20, kRandom);
    t.add(module + ".attn.to_q.lora_B.weight", 24, 3, kRandom);
  }
  const std::string proj = "transformer.single_transformer_blocks.0.proj_mlp";
  t.add(proj + ".lora_A.weight", 5, 7, kRandom);
  t.add(proj + ".lora_B.weight", 9, 5, kRandom);
  const Json json = inspect(t, {{"fluxlora.trigger", "zorbot"}, {"format", "pt"}});
  EXPECT_EQ(json.at("kind"), "diffusers-lora");
  EXPECT_EQ(json.at("tensors"), 8);
  EXPECT_EQ(json.at("numbers"), 3 * (3 * 20 + 24 * 3) + 5 * 7 + 9 * 5);
  EXPECT_EQ(json.at("dtypes"), Json({{"F32", 8}}));
  EXPECT_EQ(json.at("bytes"), std::filesystem::file_size(file_));
  const Json& lora = json.at("lora");
  EXPECT_EQ(lora.at("trigger"), "zorbot");
  EXPECT_EQ(lora.at("ranks"), Json({3, 5}));
  EXPECT_EQ(lora.at("alphas"), Json({3.0, 5.0})) << "without a word about it alpha is the rank";
  EXPECT_EQ(lora.at("layer_count"), 4);
  std::vector<std::string> names;
  for (const Json& layer : lora.at("layers")) {
    names.push_back(layer.at("name"));
    // f32 numbers, sums in f64: only the order of additions differs.
    const double expected =
        norm_of_product(t[names.back() + ".lora_A.weight"], t[names.back() + ".lora_B.weight"], 1);
    EXPECT_NEAR(layer.at("norm").get<double>(), expected, 1e-10 * expected);
  }
  EXPECT_THAT(names, ElementsAre(proj, "transformer.transformer_blocks.0.attn.to_q",
                                 "transformer.transformer_blocks.2.attn.to_q",
                                 "transformer.transformer_blocks.10.attn.to_q"));
  const Json& types = lora.at("block_types");
  ASSERT_EQ(types.size(), 2u);
  EXPECT_EQ(types[1].at("name"), "transformer.transformer_blocks.*.attn.to_q");
  EXPECT_EQ(types[1].at("layers"), 3);
  EXPECT_EQ(lora.at("dead"), Json::array());
  EXPECT_EQ(lora.at("not_finite"), Json::array());
  EXPECT_EQ(lora.at("broken"), Json::array());

  const Ran people = run_program("inspect '" + file_.string() + "'", folder_.path());
  EXPECT_EQ(people.status, 0);
  for (const char* part : {"a LoRA in diffusers' layout", "zorbot", "rank        3, 5",
                           "transformer.transformer_blocks.*.attn.to_q"})
    EXPECT_THAT(people.out, HasSubstr(part));
}

TEST_F(Inspect, AlphaOfPeftsMetadata) {
  Tensors t;
  for (const char* name : {"attn.to_q", "attn.to_k"}) {
    const std::string module = std::string("transformer.transformer_blocks.0.") + name;
    t.add(module + ".lora_A.weight", 4, 6, kRandom);
    t.add(module + ".lora_B.weight", 6, 4, kRandom);
  }
  const std::string config =
      R"({"transformer.r":4,"transformer.lora_alpha":8,"transformer.alpha_pattern":{"attn.to_k":2}})";
  const Json lora = inspect(t, {{"lora_adapter_metadata", config}}).at("lora");
  EXPECT_EQ(lora.at("alphas"), Json({2.0, 8.0}));
  for (const Json& layer : lora.at("layers")) {
    const std::string name = layer.at("name");
    const double expected = norm_of_product(t[name + ".lora_A.weight"], t[name + ".lora_B.weight"],
                                            layer.at("alpha").get<double>() / 4);
    EXPECT_NEAR(layer.at("norm").get<double>(), expected, 1e-10 * expected) << name;
  }
  const Json broken = inspect(t, {{"lora_adapter_metadata", "{not json"}}).at("lora");
  EXPECT_EQ(broken.at("alphas"), Json({4.0}));
}

TEST_F(Inspect, KohyaLoraWithItsAlphaDeadAndNotFinite) {
  Tensors t;
  const std::vector<std::string> modules{
      "lora_unet_double_blocks_0_img_mlp_0", "lora_unet_double_blocks_1_img_mlp_0",
      "lora_unet_single_blocks_0_linear1", "lora_unet_single_blocks_1_linear1"};
  for (const std::string& module : modules) {
    t.add(module + ".lora_down.weight", 4, 8, kRandom);
    t.add(module + ".lora_up.weight", 16, 4, module == modules[2] ? 0 : kRandom);
    t.add_scalar(module + ".alpha", 2);
  }
  t.add("lora_unet_single_blocks_2_linear1.lora_down.weight", 4, 8, kRandom).view.as<float>()[5] =
      std::numeric_limits<float>::infinity();
  t.add("lora_unet_single_blocks_2_linear1.lora_up.weight", 16, 4, kRandom);
  t.add("lora_unet_single_blocks_3_linear1.lora_down.weight", 4, 8, kRandom);
  t.add("lora_unet_single_blocks_4_linear1.lora_down.weight", 4, 8, kRandom);
  t.add("lora_unet_single_blocks_4_linear1.lora_up.weight", 16, 3, kRandom);
  const Json json = inspect(t, {{"ss_base_model_version", "flux1"}});
  EXPECT_EQ(json.at("kind"), "kohya-lora");
  const Json& lora = json.at("lora");
  EXPECT_EQ(lora.at("base_model"), "flux1");
  EXPECT_EQ(lora.at("alphas"), Json({2.0, 4.0}));
  EXPECT_EQ(lora.at("dead"), Json({modules[2]}));
  EXPECT_EQ(lora.at("not_finite"), Json({"lora_unet_single_blocks_2_linear1"}));
  ASSERT_EQ(lora.at("broken").size(), 2u);
  EXPECT_EQ(lora.at("broken")[0], "lora_unet_single_blocks_3_linear1: has an A and no B");
  EXPECT_EQ(lora.at("broken")[1],
            "lora_unet_single_blocks_4_linear1: A is 4x8 and B 16x3, which do not fit");
  const Json& first = lora.at("layers")[0];
  EXPECT_EQ(first.at("name"), modules[0]);
  const double expected =
      norm_of_product(t[modules[0] + ".lora_down.weight"], t[modules[0] + ".lora_up.weight"], 0.5);
  EXPECT_NEAR(first.at("norm").get<double>(), expected, 1e-10 * expected);
  EXPECT_EQ(lora.at("block_types")[0].at("name"), "lora_unet_double_blocks_*_img_mlp_0");
  EXPECT_TRUE(lora.at("layers").back().at("norm").is_null()) << "not finite";
}

TEST_F(Inspect, OtherKinds) {
  const std::vector<std::pair<std::string, std::string>> kinds{
      {"unknown", "some.weight"},
      {"vae", "decoder.conv_in.weight"},
      {"clip-text", "text_model.embeddings.token_embedding.weight"},
      {"t5", "shared.weight"},
      {"flux-transformer", "double_blocks.0.img_attn.qkv.weight"},
      {"flux-transformer", "single_transformer_blocks.0.proj_out.weight"}};
  for (const auto& [kind, name] : kinds) {
    Tensors t;
    t.add(name, 2, 2, 1);
    const Json json = inspect(t);
    EXPECT_EQ(json.at("kind"), kind) << name;
    EXPECT_TRUE(json.at("lora").is_null());
  }
  Tensors t;
  t.add("moments", 2, 2, 1);
  EXPECT_EQ(inspect(t, {{"format", "fluxlora state 1"}}).at("kind"), "fluxlora-state");
}

TEST_F(Inspect, TheBuiltInModelsFiles) {
  const std::string assets = std::string(FLUXLORA_SOURCE_DIR) + "/assets/tiny-flux/";
  const std::vector<std::pair<std::string, std::string>> files{
      {"transformer/diffusion_pytorch_model.safetensors", "flux-transformer"},
      {"vae/diffusion_pytorch_model.safetensors", "vae"},
      {"text_encoder/model.safetensors", "clip-text"},
      {"text_encoder_2/model.safetensors", "t5"}};
  for (const auto& [file, kind] : files) {
    if (!std::filesystem::exists(assets + file)) GTEST_SKIP() << file << " is not there";
    const Ran ran = run_program("inspect --json '" + assets + file + "'", folder_.path());
    EXPECT_EQ(Json::parse(ran.out).at("kind"), kind) << file;
  }
}

TEST_F(Inspect, FilesThatAreNone) {
  const auto refused = [&](const std::string& what) {
    const Ran ran = run_program("inspect '" + file_.string() + "'", folder_.path());
    EXPECT_EQ(ran.status, 2) << what;
    EXPECT_EQ(ran.out, "") << what;
    EXPECT_THAT(ran.err, HasSubstr("error: " + file_.string())) << what;
    EXPECT_THAT(ran.err, HasSubstr("\nhint: ")) << what;
  };
  refused("missing");
  write_file_atomically(file_, std::string_view(""));
  refused("empty");
  write_file_atomically(file_, std::string_view("no safetensors at all"));
  refused("text");
}

}  // namespace
}  // namespace fluxlora
