// SPDX-License-Identifier: Apache-2.0
#include "model/vae/network.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace fluxlora::vae {
namespace {

constexpr double kEps = 1e-6;
constexpr ConvOptions kSame{.stride = 1, .pad_before = 1, .pad_after = 1};
constexpr ConvOptions kPointwise{.stride = 1, .pad_before = 0, .pad_after = 0};
// A zero row below and a zero column to the right, none above and to the left.
constexpr ConvOptions kHalve{.stride = 2, .pad_before = 0, .pad_after = 1};

Tensor positions(const Tensor& x) {  // (B, h, w, C) as (B, P, C)
  return x.reshaped({x.dim(0), x.dim(1) * x.dim(2), x.dim(3)});
}

}  // namespace

int64_t largest_activation(const VaeConfig& c, int64_t B, int64_t H, int64_t W) {
  int64_t largest = 0, area = H * W;
  for (size_t l = 0; l < c.widths.size(); ++l) {
    // The first block of a level still has the width of its neighbour: the encoder's from above,
    // the decoder's from below.
    int64_t width = std::max(c.widths[l], c.widths[l ? l - 1 : 0]);
    width = std::max(width, c.widths[std::min(l + 1, c.widths.size() - 1)]);
    largest = std::max(largest, area * width);
    if (l + 1 < c.widths.size()) area /= 4;
  }
  const int64_t qkv = c.mid_attention ? 3 * c.widths.back() : 0;
  return B * std::max({largest, area * qkv, area * 2 * c.latent_channels});
}

Network::Network(Ops& ops, const VaeConfig& config, const Tensor* slots)
    : op_(ops), config_(config), slots_(slots) {}

Tensor Network::slot(int which, int64_t h, int64_t w, int64_t C) const {
  const int64_t B = x_.dim(0);
  return slots_[which].slice(0, 0, B * h * w * C).reshaped({B, h, w, C});
}

void Network::group_norm(const Tensor& y, const Tensor& x, const Norm& norm, Silu silu) {
  op_.group_norm(positions(y), positions(x), norm.weight, norm.bias, config_.groups, kEps,
                 silu == Silu::yes);
}

void Network::conv(const Conv& conv) {
  const Tensor y = slot(free_slot(1), x_.dim(1), x_.dim(2), conv.out());
  op_.conv2d(y, x_, conv.weight, conv.bias, conv.weight.dim(1) == 1 ? kPointwise : kSame);
  x_ = y;
  at_ = free_slot(1);
}

void Network::res_block(const ResBlock& block) {
  const int64_t h = x_.dim(1), w = x_.dim(2), out = block.conv1.out();
  const int first = free_slot(1), second = free_slot(2);
  const Tensor normed = slot(first, h, w, x_.dim(3));
  group_norm(normed, x_, block.norm1, Silu::yes);
  const Tensor inner = slot(second, h, w, out);
  op_.conv2d(inner, normed, block.conv1.weight, block.conv1.bias, kSame);
  group_norm(inner, inner, block.norm2, Silu::yes);
  const Tensor y = slot(first, h, w, out);
  op_.conv2d(y, inner, block.conv2.weight, block.conv2.bias, kSame);
  if (!block.shortcut) {
    op_.add_scaled(x_, y, 1);
    return;
  }
  const Tensor skip = slot(second, h, w, out);
  op_.conv2d(skip, x_, block.shortcut.weight, block.shortcut.bias, kPointwise);
  op_.add_scaled(y, skip, 1);
  x_ = y;
  at_ = first;
}

void Network::attention(const Attention& layer) {
  const int64_t h = x_.dim(1), w = x_.dim(2), C = x_.dim(3);
  const Tensor normed = slot(free_slot(1), h, w, C);
  group_norm(normed, x_, layer.norm, Silu::no);
  const Tensor qkv = positions(slot(free_slot(2), h, w, 3 * C));  // (B, P, 3C)
  op_.linear(qkv, positions(normed), layer.qkv, layer.qkv_bias);
  const Tensor mixed = positions(normed);  // (B, P, C), its content is no longer needed
  const AttentionOptions one_head{.heads = 1, .scale = 1 / std::sqrt(static_cast<double>(C))};
  op_.attention(mixed, {}, qkv.columns(0, C), qkv.columns(C, C), qkv.columns(2 * C, C), one_head);
  const Tensor y = positions(slot(free_slot(2), h, w, C));
  op_.linear(y, mixed, layer.out, layer.out_bias);
  op_.add_scaled(positions(x_), y, 1);
}

void Network::middle(const Half& half) {
  res_block(half.mid1);
  if (half.attention) attention(half.attention);
  res_block(half.mid2);
}

void Network::downsample(const Conv& conv) {
  const Tensor y = slot(free_slot(1), x_.dim(1) / 2, x_.dim(2) / 2, conv.out());
  op_.conv2d(y, x_, conv.weight, conv.bias, kHalve);
  x_ = y;
  at_ = free_slot(1);
}

void Network::upsample(const Conv& conv) {
  const Tensor y = slot(free_slot(1), 2 * x_.dim(1), 2 * x_.dim(2), x_.dim(3));
  op_.upsample2x(y, x_);
  x_ = y;
  at_ = free_slot(1);
  this->conv(conv);
}

void Network::finish(const Half& half, const Tensor& y) {
  group_norm(x_, x_, half.norm_out, Silu::yes);
  op_.conv2d(y, x_, half.conv_out.weight, half.conv_out.bias, kSame);
}

void Network::encode(const Tensor& moments, const Tensor& pixels, const Half& half) {
  x_ = pixels;
  conv(half.conv_in);
  for (const Level& level : half.levels) {
    for (const ResBlock& block : level.blocks) res_block(block);
    if (level.resample) downsample(level.resample);
  }
  middle(half);
  if (!half.quant) return finish(half, moments);
  const Tensor y = slot(free_slot(1), x_.dim(1), x_.dim(2), moments.dim(3));
  finish(half, y);
  op_.conv2d(moments, y, half.quant.weight, half.quant.bias, kPointwise);
}

void Network::decode(const Tensor& pixels, const Tensor& latents, const Half& half) {
  x_ = latents;
  at_ = 0;
  const Tensor z = slot(0, latents.dim(1), latents.dim(2), latents.dim(3));
  op_.fill(z, config_.shift);
  op_.add_scaled(z, latents, 1 / config_.scaling);
  x_ = z;
  if (half.quant) conv(half.quant);
  conv(half.conv_in);
  middle(half);
  for (const Level& level : half.levels) {
    for (const ResBlock& block : level.blocks) res_block(block);
    if (level.resample) upsample(level.resample);
  }
  finish(half, pixels);
}

}  // namespace fluxlora::vae
