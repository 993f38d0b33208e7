// SPDX-License-Identifier: Apache-2.0
// The FLUX.1 transformer: weights for all, and a workspace for one shape of batch.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "memory/arena.h"
#include "memory/plan.h"
#include "model/flux/config.h"
#include "model/flux/double_block.h"
#include "model/flux/embed.h"
#include "model/flux/final_layer.h"
#include "model/flux/single_block.h"
#include "model/flux/weights.h"
#include "ops/paper.h"

namespace fluxlora::flux {

/// A loaded transformer. Adapters are attached to weights() before workspaces are made.
class Transformer {
 public:
  /// `path` is a transformer's folder or single file; `act` (f32, f64 or bf16) the dtype of
  /// activations, `format` that of the frozen matrices; `residence` says which of them stay on the
  /// device. Throws Error (bad_input) naming the file.
  Transformer(Device& device, const std::filesystem::path& path, DType act, WeightFormat format,
              const Residence& residence = {});
  /// One of these sizes whose weights were never read: for plans on paper.
  Transformer(Device& device, const Config& config, DType act, WeightFormat format,
              const Residence& residence = {});
  Transformer(Device& device, const std::filesystem::path& path, DType act)
      : Transformer(device, path, act, plain_format(act)) {}

  Device& device() { return device_; }
  const Config& config() const { return config_; }
  Weights& weights() { return loaded_.weights(); }
  LoadedWeights& loaded() { return loaded_; }
  DType act() const { return act_; }
  /// The sizes of a batch of B pictures of rows x columns image tokens with M text tokens.
  Sizes sizes(int64_t B, int64_t M, int64_t rows, int64_t columns) const;

 private:
  Device& device_;
  Config config_;
  DType act_;
  LoadedWeights loaded_;
};

/// What a workspace is for.
struct WorkspaceOptions {
  bool training = false;     ///< keep what the backward needs
  bool pooled_grad = false;  ///< the backward also gives dL/d pooled (a CLIP LoRA trains)
  /// What each block keeps for the backward, double blocks first; empty: everything. Any choice
  /// gives the same gradients bit for bit.
  std::vector<Keep> keep = {};
};

/// All memory of the forward, and of the backward, for one shape. Sampler, validation and trainer
/// use the same forward; without training two blocks' memory serves all blocks in turn.
class Workspace {
 public:
  Workspace(Transformer& model, const Sizes& sizes, const WorkspaceOptions& options = {});

  const Sizes& sizes() const { return z_; }
  /// To be filled before forward().
  const Inputs& inputs() const { return inputs_; }
  const Tensor& prediction() const { return prediction_; }      // (B, N, C) velocity
  const Tensor& d_prediction() const { return d_prediction_; }  // (B, N, C) to be filled
  const Tensor& d_pooled() const { return d_pooled_; }          // (B, vec_in) after backward()

  void forward();
  /// Accumulates the gradients of all adapters that train. Once after each forward.
  void backward();

  /// Called after the embedders ("embedders") and after every block of the forward with its BFL
  /// name, the stream, and what is still to be added to it: for goldens and for finding the first
  /// bad value.
  using Observer = std::function<void(const std::string& block, const Tensor& x, const Pending&)>;
  void observe(Observer observer) { observer_ = std::move(observer); }

  /// What each block costs at each level, for the planner; `paper` is the model's device.
  std::vector<PlanBlock> costs(PaperDevice& paper);
  /// Bytes by owner.
  std::map<std::string, int64_t> owners() const;
  int64_t bytes() const { return arena_.peak() + to_next_.peak() + in_block_.peak(); }

 private:
  /// Takes everything from three arenas: what lives on, what the next block reads, what a block
  /// uses within itself. The last two are dealt out anew for each block.
  void describe(Arena& on, Arena& to_next, Arena& in_block);
  Kept kept(size_t block) const;
  /// Around whatever reads the matrices of block n.
  void lease(size_t n, Walk walk);
  void release(size_t n, Walk walk);
  size_t slot(size_t block) const { return options_.training ? block : block % 2; }
  /// Modulation gradients of block n (counted over both kinds), by stream; empty when not needed.
  std::array<Tensor, 2> d_mod(size_t n) const;
  /// The gate columns of block n's modulation gradient.
  std::array<Tensor, 2> d_gate(size_t n) const;

  Transformer& model_;
  Sizes z_;
  WorkspaceOptions options_;
  bool d_vec_ = false, d_modulation_ = false, dora_ = false;
  Arena arena_, to_next_, in_block_;
  Inputs inputs_;
  Tensor prediction_, d_prediction_, d_pooled_;
  EmbedSaved embed_;
  std::vector<DoubleSaved> double_saved_;
  std::vector<SingleSaved> single_saved_;
  FinalSaved final_saved_;
  Conditioning cond_;
  Scratch scratch_;
  Tensor dx_;          // (B, S, D)
  Tensor d_silu_vec_;  // (B, D)
  EmbedGrads embed_grads_;
  Observer observer_;
};

}  // namespace fluxlora::flux
