// SPDX-License-Identifier: Apache-2.0
// CLIP's text model: words to one vector (flux-facts 5.1). Its linear layers carry adapters.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "memory/arena.h"
#include "model/clip/config.h"
#include "model/clip/layer.h"
#include "model/clip/weights.h"

namespace fluxlora {

class ClipText {
 public:
  /// Reads a folder (config.json, model.safetensors or its shards) or a single file into the
  /// device's memory. `act` is f32, f64 or bf16, for weights and activations. Throws Error
  /// (bad_input) naming the file, and the tensor with its expected and found shape.
  ClipText(Device& device, const std::filesystem::path& path, DType act);
  /// One of these sizes whose weights were never read: for plans on paper.
  ClipText(Device& device, const ClipConfig& config, DType act);

  const ClipConfig& config() const { return config_; }

  /// f(name, AdaptedLinear&) for every linear layer, under transformers' name with its prefix:
  /// "text_model.encoder.layers.0.self_attn.q_proj". Adapters are attached before prepare().
  template <typename F>
  void visit_linears(F&& f) {
    weights_.visit_linears(
        [&](const std::string& name, AdaptedLinear& linear) { f("text_model." + name, linear); });
  }

  /// Of the workspace.
  int64_t batch() const { return z_.B; }
  /// Makes the workspace for B texts. Without `training` all layers share the memory of one.
  void prepare(int64_t B, bool training);

  /// pooled (B, C) of B texts of config().positions ids each; the view stays valid until the next
  /// call. No adapter's gradient changes. Throws Error (bad_input) for an id that the embedding
  /// table does not have.
  const Tensor& forward(std::span<const int32_t> ids);

  /// Accumulates the gradients of all adapters that train. d_pooled (B, C). Once after each
  /// forward() of a workspace for training.
  void backward(const Tensor& d_pooled);

  int64_t weight_bytes() const { return weight_memory_.used(); }
  int64_t workspace_bytes() const { return memory_.peak(); }

 private:
  void describe(Arena& arena);
  /// Where the text's vector is read.
  int64_t pooled_position(std::span<const int32_t> text) const;

  Device& device_;
  std::filesystem::path path_;
  ClipConfig config_;
  clip::Weights weights_;
  Arena weight_memory_, memory_;

  clip::Sizes z_;
  bool training_ = false;
  std::vector<clip::Saved> saved_;  // a layer each; without training they share memory
  clip::Scratch scratch_;
  std::vector<int64_t> places_;   // of each text's vector
  Tensor ids_;                    // (B, T) i32
  Tensor position_rows_;          // (B, T, C)
  Tensor last_;                   // (B, T, C) the last layer's output
  Tensor picked_, picked_stats_;  // (B, 1, C), (B, 1, 2): its rows at `places_`
  Tensor pooled_;                 // (B, C)
  Tensor dx_, d_picked_;          // (B, T, C), (B, 1, C)
};

}  // namespace fluxlora
