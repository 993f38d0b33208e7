// SPDX-License-Identifier: Apache-2.0
// The VAE against diffusers' output (tests/golden/README.md), its plan of memory, and what it says
// about broken model folders. tests/interop/test_vae.py compares random models.
#include "model/vae/vae.h"

#include <cmath>
#include <cstring>
#include <fstream>

#include "backend/cpu/cpu_device.h"
#include "flow/pack.h"
#include "tensor/compare.h"
#include "tensor/safetensors.h"
#include "unit/expect_error.h"
#include "unit/temporary_folder.h"

namespace fluxlora {
namespace {

namespace fs = std::filesystem;

// Both sides compute in f32 and are 2e-6 apart (tests/interop/test_vae.py); 1e-4 is the project's
// bound, 2e-5 leaves room for other BLAS libraries and instruction sets.
constexpr double kTolerance = 2e-5;

const fs::path kTiny = "builtin:tiny-flux/vae";

SafetensorsFile golden() {
  return SafetensorsFile(fs::path(FLUXLORA_SOURCE_DIR) / "tests/golden/encoders.safetensors");
}

/// The golden's pictures (2, 96, 128, 3) in [-1, 1].
HostTensor golden_pixels(const SafetensorsFile& file) {
  const auto& entry = file.entry("pixels");
  HostTensor pixels(DType::f32, entry.shape.data(), 4);
  for (int64_t i = 0; i < pixels.view.size(); ++i)
    pixels.view.as<float>()[i] =
        static_cast<float>(std::to_integer<int>(entry.data[i])) / 127.5f - 1;
  return pixels;
}

/// The golden tensor (B, C, h, w) as (B, h, w, C).
HostTensor channels_last(const SafetensorsFile& file, const std::string& name) {
  const HostTensor first = file.read(name, DType::f32);
  const Tensor& f = first.view;
  HostTensor last(DType::f32, {f.dim(0), f.dim(2), f.dim(3), f.dim(1)});
  flow::channels_last(last.view, f);
  return last;
}

HostTensor like(const HostTensor& other) {
  const Tensor& t = other.view;
  return HostTensor(DType::f32, {t.dim(0), t.dim(1), t.dim(2), t.dim(3)});
}

TEST(Vae, EncodesAsDiffusers) {
  const auto device = open_cpu_device();
  const SafetensorsFile file = golden();
  const HostTensor pixels = golden_pixels(file), expected = channels_last(file, "latents");
  Vae vae(*device, kTiny, DType::f32);
  EXPECT_EQ(vae.factor(), 8);
  EXPECT_EQ(vae.latent_channels(), 16);
  vae.prepare(2, 96, 128);
  const HostTensor latents = like(expected);
  vae.encode(latents.view, pixels.view);
  EXPECT_LT(relative_error(latents.view, expected.view), kTolerance);
}

TEST(Vae, DecodesAsDiffusers) {
  const auto device = open_cpu_device();
  const SafetensorsFile file = golden();
  const HostTensor latents = channels_last(file, "latents"),
                   expected = channels_last(file, "decoded");
  Vae vae(*device, kTiny, DType::f32);
  vae.prepare(1, 96, 128);
  const HostTensor pixels = like(expected);
  vae.decode(pixels.view, latents.view.slice(0, 0, 1));
  EXPECT_LT(relative_error(pixels.view, expected.view), kTolerance);
}

TEST(Vae, ALargerPlanChangesNothing) {
  const auto device = open_cpu_device();
  const HostTensor pixels = golden_pixels(golden());
  Vae small(*device, kTiny, DType::f32), large(*device, kTiny, DType::f32);
  small.prepare(2, 96, 128);
  large.prepare(3, 128, 192);
  const HostTensor a(DType::f32, {2, 12, 16, 16}), b(DType::f32, {2, 12, 16, 16});
  small.encode(a.view, pixels.view);
  large.encode(b.view, pixels.view);
  EXPECT_EQ(std::memcmp(a.view.data(), b.view.data(), static_cast<size_t>(a.view.bytes())), 0);
  // More than was planned for is a fault of the caller and says so.
  const HostTensor many(DType::f32, {4, 12, 16, 16}), tall(DType::f32, {4, 96, 128, 3});
  EXPECT_ERROR(small.decode(tall.view, many.view), internal, "", "slice outside");
}

TEST(Vae, APictureDoesNotDependOnItsNeighbour) {
  const auto device = open_cpu_device();
  const HostTensor pixels = golden_pixels(golden());
  Vae vae(*device, kTiny, DType::f32);
  vae.prepare(2, 96, 128);
  const HostTensor both(DType::f32, {2, 12, 16, 16}), second(DType::f32, {1, 12, 16, 16});
  vae.encode(both.view, pixels.view);
  vae.encode(second.view, pixels.view.slice(0, 1, 1));
  EXPECT_LT(relative_error(both.view.slice(0, 1, 1), second.view), 1e-6);
}

TEST(Vae, MemoryIsKnownBeforeAnyFileIsRead) {
  VaeConfig flux;  // FLUX.1's (flux-facts 4.1)
  flux.widths = {128, 256, 512, 512};
  EXPECT_EQ(vae::Weights::bytes(flux, DType::bf16) / 2 / 100'000, 838);  // 83.8 million numbers
  const int64_t largest = 1024 * 1024 * 256;
  const int64_t moments = 128 * 128 * 32;
  EXPECT_EQ(Vae::workspace_bytes(flux, DType::bf16, 1, 1024, 1024), 2 * (3 * largest + moments));
  EXPECT_EQ(flux.factor(), 8);
}

TEST(Vae, LatentsOfAPosterior) {
  VaeConfig config;
  config.latent_channels = 2;
  config.scaling = 0.5;
  config.shift = 1;
  double moments[8] = {3, -1, 0, std::log(4), 2, 5, -100, 100}, noise[4] = {1, -2, 7, 1};
  double latents[4];
  const Tensor m(DType::f64, {1, 1, 2, 4}, moments), n(DType::f64, {1, 1, 2, 2}, noise),
      z(DType::f64, {1, 1, 2, 2}, latents);
  latents_of_posterior(z, m, {}, config);
  const double means[4] = {1, -1, 0.5, 2};
  for (int i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(latents[i], means[i]);
  latents_of_posterior(z, m, n, config);
  const double samples[4] = {1.5, -3, 0.5 + 3.5 * std::exp(-15), 2 + 0.5 * std::exp(10)};
  for (int i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(latents[i], samples[i]);
}

class VaeFolder : public ::testing::Test {
 protected:
  void SetUp() override { write("config.json", good_); }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  /// The good configuration with one thing changed.
  void change(const std::string& from, const std::string& to) {
    std::string text = good_;
    text.replace(text.find(from), from.size(), to);
    write("config.json", text);
  }
  VaeConfig config() { return read_vae_config(folder_.path()); }

  const std::string good_ = R"({"_class_name": "AutoencoderKL", "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "layers_per_block": 1,
    "latent_channels": 4, "norm_num_groups": 4, "scaling_factor": 0.5, "shift_factor": null,
    "use_quant_conv": false, "use_post_quant_conv": false, "in_channels": 3, "act_fn": "silu"})";
  TemporaryFolder folder_;
};

TEST_F(VaeFolder, ConfigurationIsReadAndChecked) {
  EXPECT_EQ(config().widths, (std::vector<int64_t>{8, 16}));
  EXPECT_EQ(config().factor(), 2);
  EXPECT_EQ(config().shift, 0);
  EXPECT_FALSE(config().quant_conv);
  EXPECT_TRUE(config().mid_attention);
  const auto expect_complaint = [&](const char* from, const char* to, const char* key) {
    SCOPED_TRACE(to);
    change(from, to);
    try {
      config();
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      EXPECT_THAT(error.two_lines(), ::testing::HasSubstr("config.json"));
      EXPECT_THAT(error.two_lines(), ::testing::HasSubstr(key));
    }
  };
  expect_complaint("AutoencoderKL", "AutoencoderTiny", "_class_name");
  expect_complaint("[8, 16]", "[]", "block_out_channels");
  expect_complaint("[8, 16]", "[8, 18]", "block_out_channels");
  expect_complaint("[8, 16]", "[8, -16]", "block_out_channels");
  expect_complaint("[8, 16]", "[8, 16, 32]", "down_block_types");
  expect_complaint("\"block_out_channels\": [8, 16],", "", "block_out_channels");
  expect_complaint("\"DownEncoderBlock2D\",", "\"AttnDownEncoderBlock2D\",", "down_block_types");
  expect_complaint("\"latent_channels\": 4", "\"latent_channels\": 0", "latent_channels");
  expect_complaint("\"latent_channels\": 4", "\"latent_channels\": \"4\"", "latent_channels");
  expect_complaint("\"scaling_factor\": 0.5", "\"scaling_factor\": 0", "scaling_factor");
  expect_complaint("\"in_channels\": 3", "\"in_channels\": 4", "in_channels");
  expect_complaint("silu", "relu", "act_fn");
  fs::remove(folder_ / "config.json");
  EXPECT_ERROR(config(), bad_input, "config.json", "does not exist");
}

TEST_F(VaeFolder, WeightsMustFit) {
  const auto device = open_cpu_device();
  EXPECT_ERROR(Vae(*device, folder_.path(), DType::f32), bad_input, folder_.path().string(),
               "has no diffusion_pytorch_model.safetensors");
  float x[2] = {};
  const fs::path weights = folder_ / "diffusion_pytorch_model.safetensors";
  write_safetensors(weights, {{"other", Tensor(DType::f32, {2}, x)}}, {});
  EXPECT_ERROR(Vae(*device, folder_.path(), DType::f32), bad_input, weights.string(),
               "has no tensor \"encoder.conv_in.weight\"");
  write_safetensors(weights, {{"encoder.conv_in.weight", Tensor(DType::f32, {2}, x)}}, {});
  EXPECT_ERROR(Vae(*device, folder_.path(), DType::f32), bad_input, weights.string(),
               "\"encoder.conv_in.weight\" is (2) where (8, 3, 3, 3) is expected");
}

}  // namespace
}  // namespace fluxlora
