// SPDX-License-Identifier: Apache-2.0
// T5's encoder: words to token states (flux-facts 5.2). Frozen; padding is attended to, as in FLUX.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "memory/arena.h"
#include "model/t5/config.h"
#include "ops/device.h"

namespace fluxlora {
namespace t5 {

struct Block {
  Tensor attention_norm;  // (C)
  Weight q, k, v;         // (H K, C)
  Weight o;               // (C, H K)
  Tensor feed_norm;       // (C)
  Weight wi_0, wi_1;      // (F, C): the gate and what it gates
  Weight wo;              // (C, F)
};

struct Weights {
  Tensor tokens;  // (V, C)
  std::vector<Block> blocks;
  Tensor final_norm;  // (C)

  /// f(transformers' name, Weight& or Tensor&, shape) for every parameter but the table of
  /// positions, which stays on the host. The token table is "shared.weight".
  template <typename F>
  void visit(const T5Config& c, F&& f) {
    using Shape = std::initializer_list<int64_t>;
    const int64_t inner = c.heads * c.head_width;
    f("shared.weight", tokens, Shape{c.vocabulary, c.width});
    for (size_t i = 0; i < blocks.size(); ++i) {
      const std::string block = "encoder.block." + std::to_string(i) + ".layer.";
      Block& b = blocks[i];
      f(block + "0.layer_norm.weight", b.attention_norm, Shape{c.width});
      f(block + "0.SelfAttention.q.weight", b.q, Shape{inner, c.width});
      f(block + "0.SelfAttention.k.weight", b.k, Shape{inner, c.width});
      f(block + "0.SelfAttention.v.weight", b.v, Shape{inner, c.width});
      f(block + "0.SelfAttention.o.weight", b.o, Shape{c.width, inner});
      f(block + "1.layer_norm.weight", b.feed_norm, Shape{c.width});
      f(block + "1.DenseReluDense.wi_0.weight", b.wi_0, Shape{c.hidden, c.width});
      f(block + "1.DenseReluDense.wi_1.weight", b.wi_1, Shape{c.hidden, c.width});
      f(block + "1.DenseReluDense.wo.weight", b.wo, Shape{c.width, c.hidden});
    }
    f("encoder.final_layer_norm.weight", final_norm, Shape{c.width});
  }
};

}  // namespace t5

class T5Encoder {
 public:
  /// Reads a folder (config.json, model.safetensors or its shards) or a single file into the
  /// device's memory. `act` is f32, f64 or bf16, for activations, norms and the token table;
  /// `format` that of the matrices. Throws Error (bad_input) naming the file, and the tensor with
  /// its expected and found shape.
  T5Encoder(Device& device, const std::filesystem::path& path, DType act, WeightFormat format);
  T5Encoder(Device& device, const std::filesystem::path& path, DType act)
      : T5Encoder(device, path, act, plain_format(act)) {}

  /// What an encoder of these sizes takes of a GPU for one text of `tokens`, work memory included.
  static int64_t bytes(const T5Config& config, DType act, WeightFormat format, int64_t tokens);

  const T5Config& config() const { return config_; }

  /// Makes the workspace for B texts of L ids.
  void prepare(int64_t B, int64_t L);

  /// states (B, L, C) of ids (B, L) in the prepared sizes; the view stays valid until the next
  /// call. Throws Error (bad_input) for an id that the token table does not have.
  const Tensor& forward(std::span<const int32_t> ids);

  int64_t weight_bytes() const { return weight_memory_.used(); }
  int64_t workspace_bytes() const { return memory_.used(); }

 private:
  /// One whose weights were never read.
  T5Encoder(Device& device, const T5Config& config, DType act, WeightFormat format);
  void describe(Arena& arena);
  void block(const t5::Block& w);

  Device& device_;
  std::filesystem::path path_;
  T5Config config_;
  DType act_;
  t5::Weights weights_;
  HostTensor position_table_;  // (buckets, H)
  Arena weight_memory_, memory_;

  int64_t B_ = 0, L_ = 0;
  Tensor ids_;               // (B, L) i32
  Tensor bias_;              // (H, L, L)
  Tensor h_, n_, y_;         // (B, L, C): stream, normed, what is added to the stream
  Tensor q_, k_, v_, attn_;  // (B, L, H K)
  Tensor gate_, up_, g_;     // (B, L, F)
};

}  // namespace fluxlora
