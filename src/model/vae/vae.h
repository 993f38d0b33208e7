// SPDX-License-Identifier: Apache-2.0
// The VAE: pictures to latents and back (flux-facts 4). Frozen; written in Ops only.
#pragma once

#include <filesystem>

#include "memory/arena.h"
#include "model/vae/config.h"
#include "model/vae/weights.h"
#include "ops/device.h"

namespace fluxlora {

/// The latents of a posterior, in the model's scaling: ((mean + exp(logvar / 2) noise) - shift)
/// scaling, with logvar limited to [-30, 20] as in diffusers. Without noise: of the mean.
/// latents, noise (..., C) and moments (..., 2C) = mean, logvar: contiguous host memory, f32 or
/// f64, one dtype.
void latents_of_posterior(const Tensor& latents, const Tensor& moments, const Tensor& noise,
                          const VaeConfig& config);

/// Tensors are contiguous, channel-last, in device memory and of the dtype given to the
/// constructor. Pixels lie in [-1, 1] (u8 / 127.5 - 1); latents are in the model's scaling. H and W
/// are multiples of factor(); h = H / factor(), w = W / factor(), C = latent_channels().
class Vae {
 public:
  /// `path` is the vae/ of a diffusers folder or a single file. Throws Error (bad_input) naming
  /// what does not fit.
  Vae(Device& device, const std::filesystem::path& path, DType dtype);

  const VaeConfig& config() const { return config_; }
  int64_t factor() const { return config_.factor(); }
  int64_t latent_channels() const { return config_.latent_channels; }

  /// Plans the memory for B pictures of H x W, for both directions. Smaller ones need no new plan.
  void prepare(int64_t B, int64_t H, int64_t W);

  /// moments (B, h, w, 2C) = mean and logvar of z as the network gives them, from pixels (B, H, W,
  /// 3).
  void encode_moments(const Tensor& moments, const Tensor& pixels);
  /// latents (B, h, w, C) of the posterior: its mean, or a sample with the given noise (B, h, w,
  /// C).
  void encode(const Tensor& latents, const Tensor& pixels, const Tensor& noise = {});
  /// pixels (B, H, W, 3) of latents (B, h, w, C). Not cut to [-1, 1].
  void decode(const Tensor& pixels, const Tensor& latents);

  int64_t weight_bytes() const { return weights_.bytes(); }
  /// What prepare(B, H, W) takes, without any file.
  static int64_t workspace_bytes(const VaeConfig& config, DType dtype, int64_t B, int64_t H,
                                 int64_t W);

 private:
  Device& device_;
  VaeConfig config_;
  DType dtype_;
  vae::Weights weights_;
  Arena memory_;
  Tensor slots_[3];  // flat, each as large as the largest activation
  Tensor moments_;   // flat
};

}  // namespace fluxlora
