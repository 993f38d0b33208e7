// SPDX-License-Identifier: Apache-2.0
// The sizes of a VAE, from vae/config.json of a diffusers folder or the tensors (flux-facts 4.1).
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace fluxlora {

struct VaeConfig {
  int64_t picture_channels = 3;
  int64_t latent_channels = 16;  ///< C of the latents
  std::vector<int64_t> widths;   ///< channels of each level, the largest picture first
  int64_t layers = 2;            ///< residual blocks per level; the decoder has one more
  int64_t groups = 32;           ///< of the group norms
  bool mid_attention = true;
  bool quant_conv = false;        ///< a 1x1 convolution behind the encoder
  bool post_quant_conv = false;   ///< one before the decoder
  double scaling = 1, shift = 0;  ///< the model sees (z - shift) scaling

  /// Pixels per latent along one side.
  int64_t factor() const { return int64_t{1} << (widths.size() - 1); }
};

/// Reads PATH/config.json of a diffusers AutoencoderKL, or the sizes of the tensors when `path` is
/// a single file (model/source.h), with FLUX.1's scaling and shift. Throws Error (bad_input) naming
/// the file and the key or tensor when something is missing, wrong or not an AutoencoderKL that we
/// know.
VaeConfig read_vae_config(const std::filesystem::path& path);

}  // namespace fluxlora
