// SPDX-License-Identifier: Apache-2.0
// The forward pass of the VAE's two halves.
#pragma once

#include "model/vae/config.h"
#include "model/vae/weights.h"
#include "ops/ops.h"

namespace fluxlora::vae {

/// Elements of the largest activation for B pictures of H x W, in either direction.
int64_t largest_activation(const VaeConfig& config, int64_t B, int64_t H, int64_t W);

/// Runs layers on one activation x (B, h, w, C), which lies in one of three slots of memory: two
/// are always free for what a layer needs and makes.
class Network {
 public:
  /// `slots` are flat tensors of at least largest_activation() elements.
  Network(Ops& ops, const VaeConfig& config, const Tensor* slots);

  /// moments (B, h, w, 2C) from pixels (B, H, W, 3).
  void encode(const Tensor& moments, const Tensor& pixels, const Half& half);
  /// pixels (B, H, W, 3) from latents (B, h, w, C) in the model's scaling.
  void decode(const Tensor& pixels, const Tensor& latents, const Half& half);

 private:
  enum class Silu { no, yes };

  Tensor slot(int which, int64_t h, int64_t w, int64_t C) const;
  /// The next of the three slots after the one that holds x, 1 or 2 steps on.
  int free_slot(int step) const { return (at_ + step) % 3; }
  void group_norm(const Tensor& y, const Tensor& x, const Norm& norm, Silu silu);
  void conv(const Conv& conv);
  void res_block(const ResBlock& block);
  void attention(const Attention& layer);
  void middle(const Half& half);
  void downsample(const Conv& conv);
  void upsample(const Conv& conv);
  void finish(const Half& half, const Tensor& y);

  Ops& op_;
  const VaeConfig& config_;
  const Tensor* slots_;
  Tensor x_;  // (B, h, w, C), in slot at_
  int at_ = 0;
};

}  // namespace fluxlora::vae
