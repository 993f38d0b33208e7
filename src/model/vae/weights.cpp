// SPDX-License-Identifier: Apache-2.0
#include "model/vae/weights.h"

#include <string>

#include <fmt/format.h>

#include "model/load.h"
#include "model/vae/names.h"
#include "tensor/safetensors.h"

namespace fluxlora::vae {
namespace {

constexpr VaeNames kNames = kDiffusersVaeNames;

WeightFormat format_of(DType dtype) {
  if (dtype == DType::f64) return WeightFormat::f64;
  return dtype == DType::bf16 ? WeightFormat::bf16 : WeightFormat::f32;
}

/// (O, I, kh, kw) of the files to (O, kh, kw, I), element by element of any size.
HostTensor channels_last(const HostTensor& source, const Conv& conv) {
  const Tensor& w = conv.weight;
  HostTensor result(w.dtype(), {w.dim(0), w.dim(1), w.dim(2), w.dim(3)});
  const int64_t taps = w.dim(1) * w.dim(2), channels = w.dim(3);
  const auto repack = [&]<typename T>(T) {
    const T* from = source.view.as<const T>();
    T* to = result.view.as<T>();
    for (int64_t o = 0; o < w.dim(0); ++o)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t tap = 0; tap < taps; ++tap) to[(o * taps + tap) * channels + c] = *from++;
  };
  if (dtype_size(w.dtype()) == 8)
    repack(uint64_t{});
  else if (dtype_size(w.dtype()) == 4)
    repack(uint32_t{});
  else
    repack(uint16_t{});
  return result;
}

/// Takes memory for each tensor from the arena and, when there is a file, fills it.
class Loader {
 public:
  Loader(Arena& arena, DType dtype) : arena_(arena), dtype_(dtype) {}
  Loader(Arena& arena, DType dtype, Device& device, const SafetensorsSet& files)
      : arena_(arena), dtype_(dtype), device_(&device), files_(&files) {}

  Conv conv(const std::string& name, int64_t out, int64_t in, int64_t kernel) {
    const Conv conv{take({out, kernel, kernel, in}), take({out})};
    if (files_) {
      const HostTensor weight =
          read_checked(*files_, name + ".weight", {out, in, kernel, kernel}, dtype_);
      device_->upload(conv.weight, channels_last(weight, conv).view.data());
      load_tensor(*device_, conv.bias, *files_, name + ".bias");
    }
    return conv;
  }

  Norm norm(const std::string& name, int64_t channels) {
    const Norm norm{take({channels}), take({channels})};
    load(norm.weight, name + ".weight");
    load(norm.bias, name + ".bias");
    return norm;
  }

  ResBlock res_block(const std::string& name, int64_t in, int64_t out) {
    ResBlock block;
    block.norm1 = norm(name + "." + kNames.norm1, in);
    block.conv1 = conv(name + "." + kNames.conv1, out, in, 3);
    block.norm2 = norm(name + "." + kNames.norm2, out);
    block.conv2 = conv(name + "." + kNames.conv2, out, out, 3);
    if (in != out) block.shortcut = conv(name + "." + kNames.shortcut, out, in, 1);
    return block;
  }

  Attention attention(const std::string& name, int64_t channels) {
    Attention a;
    a.norm = norm(name + "." + kNames.attention_norm, channels);
    a.qkv = {format_of(dtype_), take({3 * channels, channels})};
    a.qkv_bias = take({3 * channels});
    int64_t first = 0;
    for (const char* part : {kNames.q, kNames.k, kNames.v}) {
      load(a.qkv.values.slice(0, first, channels), name + "." + part + ".weight");
      load(a.qkv_bias.slice(0, first, channels), name + "." + part + ".bias");
      first += channels;
    }
    a.out = {format_of(dtype_), take({channels, channels})};
    a.out_bias = take({channels});
    load(a.out.values, name + "." + kNames.attention_out + ".weight");
    load(a.out_bias, name + "." + kNames.attention_out + ".bias");
    return a;
  }

 private:
  Tensor take(std::initializer_list<int64_t> shape) { return arena_.take("vae", dtype_, shape); }
  void load(const Tensor& tensor, const std::string& name) {
    if (files_) load_tensor(*device_, tensor, *files_, name);
  }

  Arena& arena_;
  DType dtype_;
  Device* device_ = nullptr;
  const SafetensorsSet* files_ = nullptr;
};

/// What both halves have in their middle and at their ends.
void load_ends(Loader& load, Half& half, const char* side, const VaeConfig& c) {
  const int64_t width = c.widths.back();
  half.mid1 = load.res_block(fmt::format(fmt::runtime(kNames.mid_block), side, 0), width, width);
  if (c.mid_attention)
    half.attention = load.attention(fmt::format(fmt::runtime(kNames.attention), side), width);
  half.mid2 = load.res_block(fmt::format(fmt::runtime(kNames.mid_block), side, 1), width, width);
}

Half load_encoder(Loader& load, const VaeConfig& c) {
  const char* side = "encoder";
  Half half;
  half.conv_in = load.conv(fmt::format(fmt::runtime(kNames.conv_in), side), c.widths.front(),
                           c.picture_channels, 3);
  int64_t in = c.widths.front();
  for (size_t l = 0; l < c.widths.size(); ++l) {
    Level level;
    for (int64_t j = 0; j < c.layers; ++j, in = c.widths[l])
      level.blocks.push_back(
          load.res_block(fmt::format(fmt::runtime(kNames.down_block), l, j), in, c.widths[l]));
    if (l + 1 < c.widths.size())
      level.resample = load.conv(fmt::format(fmt::runtime(kNames.downsample), l), in, in, 3);
    half.levels.push_back(std::move(level));
  }
  load_ends(load, half, side, c);
  half.norm_out = load.norm(fmt::format(fmt::runtime(kNames.norm_out), side), in);
  const int64_t moments = 2 * c.latent_channels;
  half.conv_out = load.conv(fmt::format(fmt::runtime(kNames.conv_out), side), moments, in, 3);
  if (c.quant_conv) half.quant = load.conv(kNames.quant_conv, moments, moments, 1);
  return half;
}

Half load_decoder(Loader& load, const VaeConfig& c) {
  const char* side = "decoder";
  Half half;
  const int64_t latent = c.latent_channels;
  if (c.post_quant_conv) half.quant = load.conv(kNames.post_quant_conv, latent, latent, 1);
  int64_t in = c.widths.back();
  half.conv_in = load.conv(fmt::format(fmt::runtime(kNames.conv_in), side), in, latent, 3);
  load_ends(load, half, side, c);
  for (size_t l = 0; l < c.widths.size(); ++l) {
    const int64_t out = c.widths[c.widths.size() - 1 - l];
    Level level;
    for (int64_t j = 0; j < c.layers + 1; ++j, in = out)
      level.blocks.push_back(
          load.res_block(fmt::format(fmt::runtime(kNames.up_block), l, j), in, out));
    if (l + 1 < c.widths.size())
      level.resample = load.conv(fmt::format(fmt::runtime(kNames.upsample), l), in, in, 3);
    half.levels.push_back(std::move(level));
  }
  half.norm_out = load.norm(fmt::format(fmt::runtime(kNames.norm_out), side), in);
  half.conv_out =
      load.conv(fmt::format(fmt::runtime(kNames.conv_out), side), c.picture_channels, in, 3);
  return half;
}

}  // namespace

int64_t Weights::bytes(const VaeConfig& config, DType dtype) {
  Arena measuring;
  Loader load(measuring, dtype);
  load_encoder(load, config);
  load_decoder(load, config);
  return measuring.used();
}

Weights::Weights(Device& device, const std::filesystem::path& folder, const VaeConfig& config,
                 DType dtype)
    : memory_(device, bytes(config, dtype)) {
  const SafetensorsSet files(folder, "diffusion_pytorch_model");
  Loader load(memory_, dtype, device, files);
  encoder = load_encoder(load, config);
  decoder = load_decoder(load, config);
}

}  // namespace fluxlora::vae
