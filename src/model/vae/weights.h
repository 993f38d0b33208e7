// SPDX-License-Identifier: Apache-2.0
// The weights of a VAE on the device. Activations are channel-last, so convolutions are too.
#pragma once

#include <filesystem>
#include <vector>

#include "memory/arena.h"
#include "model/vae/config.h"
#include "ops/device.h"
#include "tensor/weight.h"

namespace fluxlora::vae {

struct Conv {
  Tensor weight;  // (O, kh, kw, I)
  Tensor bias;    // (O)
  int64_t out() const { return weight.dim(0); }
  explicit operator bool() const { return static_cast<bool>(weight); }
};

struct Norm {
  Tensor weight, bias;  // (C)
};

/// x + conv2(silu(norm2(conv1(silu(norm1(x)))))), x through `shortcut` when the width changes.
struct ResBlock {
  Norm norm1, norm2;
  Conv conv1, conv2;
  Conv shortcut;  // 1x1, or empty
};

/// One head over all positions, added to its input.
struct Attention {
  Norm norm;
  Weight qkv, out;  // (3C, C), (C, C)
  Tensor qkv_bias, out_bias;
  explicit operator bool() const { return static_cast<bool>(qkv); }
};

struct Level {
  std::vector<ResBlock> blocks;
  Conv resample;  // 3x3 to the next level, or empty
};

/// The encoder or the decoder.
struct Half {
  Conv conv_in;
  std::vector<Level> levels;  // in the order in which the data passes
  ResBlock mid1, mid2;
  Attention attention;  // between mid1 and mid2, or empty
  Norm norm_out;
  Conv conv_out;
  Conv quant;  // behind the encoder or before the decoder: 1x1, or empty
};

class Weights {
 public:
  /// Reads a folder of diffusers' layout or a single file. Throws Error (bad_input) naming the
  /// tensor that is missing or of another shape than the configuration says.
  Weights(Device& device, const std::filesystem::path& path, const VaeConfig& config, DType dtype);

  Half encoder, decoder;

  int64_t bytes() const { return memory_.used(); }
  /// What they will take, without any file.
  static int64_t bytes(const VaeConfig& config, DType dtype);

 private:
  Arena memory_;
};

}  // namespace fluxlora::vae
