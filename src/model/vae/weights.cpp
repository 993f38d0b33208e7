// SPDX-License-Identifier: Apache-2.0
#include "model/vae/weights.h"

#include <string>

#include <fmt/format.h>

#include "model/vae/names.h"

namespace fluxlora::vae {
namespace {

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
  Loader(Arena& arena, DType dtype, Device& device, const TensorSource& source)
      : names(vae_names(source)),
        arena_(arena),
        dtype_(dtype),
        device_(&device),
        source_(&source) {}

  const VaeNames names = kDiffusersVaeNames;

  Conv conv(const std::string& name, int64_t out, int64_t in, int64_t kernel) {
    const Conv conv{take({out, kernel, kernel, in}), take({out})};
    if (source_) {
      const HostTensor weight = source_->read(name + ".weight", {out, in, kernel, kernel}, dtype_);
      device_->upload(conv.weight, channels_last(weight, conv).view.data());
      load(conv.bias, name + ".bias");
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
    block.norm1 = norm(name + "." + names.norm1, in);
    block.conv1 = conv(name + "." + names.conv1, out, in, 3);
    block.norm2 = norm(name + "." + names.norm2, out);
    block.conv2 = conv(name + "." + names.conv2, out, out, 3);
    if (in != out) block.shortcut = conv(name + "." + names.shortcut, out, in, 1);
    return block;
  }

  Attention attention(const std::string& name, int64_t channels) {
    Attention a;
    a.norm = norm(name + "." + names.attention_norm, channels);
    a.qkv = {plain_format(dtype_), take({3 * channels, channels})};
    a.qkv_bias = take({3 * channels});
    int64_t first = 0;
    for (const char* part : {names.q, names.k, names.v}) {
      load(a.qkv.values.slice(0, first, channels), name + "." + part + ".weight");
      load(a.qkv_bias.slice(0, first, channels), name + "." + part + ".bias");
      first += channels;
    }
    a.out = {plain_format(dtype_), take({channels, channels})};
    a.out_bias = take({channels});
    load(a.out.values, name + "." + names.attention_out + ".weight");
    load(a.out_bias, name + "." + names.attention_out + ".bias");
    return a;
  }

 private:
  Tensor take(std::initializer_list<int64_t> shape) { return arena_.take("vae", dtype_, shape); }
  void load(const Tensor& tensor, const std::string& name) {
    if (source_) source_->load(*device_, tensor, name);
  }

  Arena& arena_;
  DType dtype_;
  Device* device_ = nullptr;
  const TensorSource* source_ = nullptr;
};

/// What both halves have in their middle and at their ends.
void load_ends(Loader& load, Half& half, const char* side, const VaeConfig& c) {
  const int64_t width = c.widths.back();
  half.mid1 = load.res_block(
      fmt::format(fmt::runtime(load.names.mid_block), side, load.names.mid_first), width, width);
  if (c.mid_attention)
    half.attention = load.attention(fmt::format(fmt::runtime(load.names.attention), side), width);
  half.mid2 = load.res_block(
      fmt::format(fmt::runtime(load.names.mid_block), side, load.names.mid_first + 1), width,
      width);
}

Half load_encoder(Loader& load, const VaeConfig& c) {
  const char* side = "encoder";
  Half half;
  half.conv_in = load.conv(fmt::format(fmt::runtime(load.names.conv_in), side), c.widths.front(),
                           c.picture_channels, 3);
  int64_t in = c.widths.front();
  for (size_t l = 0; l < c.widths.size(); ++l) {
    Level level;
    for (int64_t j = 0; j < c.layers; ++j, in = c.widths[l])
      level.blocks.push_back(
          load.res_block(fmt::format(fmt::runtime(load.names.down_block), l, j), in, c.widths[l]));
    if (l + 1 < c.widths.size())
      level.resample = load.conv(fmt::format(fmt::runtime(load.names.downsample), l), in, in, 3);
    half.levels.push_back(std::move(level));
  }
  load_ends(load, half, side, c);
  half.norm_out = load.norm(fmt::format(fmt::runtime(load.names.norm_out), side), in);
  const int64_t moments = 2 * c.latent_channels;
  half.conv_out = load.conv(fmt::format(fmt::runtime(load.names.conv_out), side), moments, in, 3);
  if (c.quant_conv) half.quant = load.conv(load.names.quant_conv, moments, moments, 1);
  return half;
}

Half load_decoder(Loader& load, const VaeConfig& c) {
  const char* side = "decoder";
  Half half;
  const int64_t latent = c.latent_channels;
  if (c.post_quant_conv) half.quant = load.conv(load.names.post_quant_conv, latent, latent, 1);
  int64_t in = c.widths.back();
  half.conv_in = load.conv(fmt::format(fmt::runtime(load.names.conv_in), side), in, latent, 3);
  load_ends(load, half, side, c);
  for (size_t l = 0; l < c.widths.size(); ++l) {
    const size_t from_largest = c.widths.size() - 1 - l;
    const int64_t out = c.widths[from_largest];
    const size_t number = load.names.largest_first ? from_largest : l;
    Level level;
    for (int64_t j = 0; j < c.layers + 1; ++j, in = out)
      level.blocks.push_back(
          load.res_block(fmt::format(fmt::runtime(load.names.up_block), number, j), in, out));
    if (l + 1 < c.widths.size())
      level.resample = load.conv(fmt::format(fmt::runtime(load.names.upsample), number), in, in, 3);
    half.levels.push_back(std::move(level));
  }
  half.norm_out = load.norm(fmt::format(fmt::runtime(load.names.norm_out), side), in);
  half.conv_out =
      load.conv(fmt::format(fmt::runtime(load.names.conv_out), side), c.picture_channels, in, 3);
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

Weights::Weights(Device& device, const std::filesystem::path& path, const VaeConfig& config,
                 DType dtype)
    : memory_(device, bytes(config, dtype)) {
  const TensorSource source(path, Network::vae);
  Loader load(memory_, dtype, device, source);
  encoder = load_encoder(load, config);
  decoder = load_decoder(load, config);
}

}  // namespace fluxlora::vae
