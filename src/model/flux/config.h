// SPDX-License-Identifier: Apache-2.0
// The sizes of a FLUX.1 transformer, as its files state them.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>

namespace fluxlora::flux {

/// Letters as in docs/notation.md; defaults are FLUX.1-dev's (flux-facts 1.1).
struct Config {
  int64_t in_channels = 64;                     ///< width of a packed latent token
  int64_t vec_in = 768;                         ///< width of CLIP's pooled vector
  int64_t context_in = 4096;                    ///< width of T5's token states
  int64_t H = 24;                               ///< heads
  int64_t K = 128;                              ///< width of a head
  int64_t depth = 19;                           ///< double-stream blocks
  int64_t depth_single = 38;                    ///< single-stream blocks
  std::array<int64_t, 3> axes_dim{16, 56, 56};  ///< rotary dimensions of a head: index, row, column
  double theta = 10000;
  bool guidance_embed = true;  ///< false for schnell

  int64_t D() const { return H * K; }
  int64_t F() const { return 4 * D(); }
};

/// Reads PATH/config.json of a diffusers FluxTransformer2DModel, or the sizes of the tensors when
/// `path` is a single file (model/source.h). Throws Error (bad_input) naming the file for a missing
/// key or tensor, another class, or sizes that contradict each other.
Config read_config(const std::filesystem::path& path);

}  // namespace fluxlora::flux
