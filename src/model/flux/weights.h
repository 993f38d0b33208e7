// SPDX-License-Identifier: Apache-2.0
// The transformer's parameters under BFL's names, and their way out of a model's files.
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "memory/arena.h"
#include "memory/block_store.h"
#include "model/adapted_linear.h"
#include "model/flux/config.h"
#include "model/source.h"

namespace fluxlora::flux {

/// Linear, SiLU, Linear: time_in, guidance_in, vector_in.
struct MlpEmbedder {
  AdaptedLinear in_layer;   // (D, C)
  AdaptedLinear out_layer;  // (D, D)
};

/// RMSNorm weights of q and k, one vector for all heads.
struct QkNorm {
  Tensor query_norm, key_norm;  // (K)
};

/// One stream of a double block.
struct DoubleStream {
  AdaptedLinear mod;   // (6D, D): shift, scale, gate of attention, then of the feed-forward
  AdaptedLinear qkv;   // (3D, D)
  AdaptedLinear proj;  // (D, D)
  AdaptedLinear mlp0;  // (F, D)
  AdaptedLinear mlp2;  // (D, F)
  QkNorm norm;
};

struct DoubleBlock {
  std::array<DoubleStream, 2> stream;  // [txt], [img]
};

struct SingleBlock {
  AdaptedLinear modulation;  // (3D, D): shift, scale, gate
  AdaptedLinear linear1;     // (3D + F, D): q, k, v, mlp
  AdaptedLinear linear2;     // (D, D + F): its input is attention, then mlp
  QkNorm norm;
};

struct FinalLayer {
  AdaptedLinear modulation;  // (2D, D): shift, scale
  AdaptedLinear linear;      // (C, D)
};

struct Weights {
  AdaptedLinear img_in;                         // (D, C)
  AdaptedLinear txt_in;                         // (D, context_in)
  MlpEmbedder time_in, guidance_in, vector_in;  // guidance_in is empty for schnell
  std::vector<DoubleBlock> double_blocks;
  std::vector<SingleBlock> single_blocks;
  FinalLayer final_layer;
};

/// Calls f(BFL name without ".weight", AdaptedLinear&) for every linear layer, in the model's
/// order. W is Weights or const Weights.
template <typename W, typename F>
void visit_linears(W& w, F&& f) {
  f("img_in", w.img_in);
  f("txt_in", w.txt_in);
  const auto embedder = [&](const std::string& name, auto& e) {
    f(name + ".in_layer", e.in_layer);
    f(name + ".out_layer", e.out_layer);
  };
  embedder("time_in", w.time_in);
  embedder("vector_in", w.vector_in);
  if (w.guidance_in.in_layer.weight) embedder("guidance_in", w.guidance_in);
  for (size_t i = 0; i < w.double_blocks.size(); ++i) {
    const std::string block = "double_blocks." + std::to_string(i) + ".";
    for (int s : {1, 0}) {  // BFL lists img first
      auto& stream = w.double_blocks[i].stream[static_cast<size_t>(s)];
      const std::string prefix = block + (s ? "img_" : "txt_");
      f(prefix + "mod.lin", stream.mod);
      f(prefix + "attn.qkv", stream.qkv);
      f(prefix + "attn.proj", stream.proj);
      f(prefix + "mlp.0", stream.mlp0);
      f(prefix + "mlp.2", stream.mlp2);
    }
  }
  for (size_t i = 0; i < w.single_blocks.size(); ++i) {
    const std::string block = "single_blocks." + std::to_string(i) + ".";
    f(block + "linear1", w.single_blocks[i].linear1);
    f(block + "linear2", w.single_blocks[i].linear2);
    f(block + "modulation.lin", w.single_blocks[i].modulation);
  }
  f("final_layer.adaLN_modulation.1", w.final_layer.modulation);
  f("final_layer.linear", w.final_layer.linear);
}

/// Whether a folder or file holds what LoadedWeights reads, by the headers alone: so that a damaged
/// file is found before hours of other work. Throws the same Errors.
void check_weights(const std::filesystem::path& path, const Config& config);

/// The two parts of a block's matrices that stay or visit by themselves: the modulation is a third
/// of the model, is read by one row a picture, and its backward seldom needs it.
enum class Part : size_t { body, modulation };
inline constexpr std::array<Part, 2> kParts{Part::body, Part::modulation};

/// Bytes of a transformer's parameters: what each block's parts take, double blocks first, and the
/// rest, which always stays on the device.
struct WeightBytes {
  int64_t rest = 0;
  std::array<std::vector<int64_t>, 2> parts;  ///< by Part, by block

  int64_t total() const;
};
/// By the sizes alone.
WeightBytes weight_bytes(const Config& config, DType act, WeightFormat format);

/// Which blocks' matrices visit the device from the host's pinned memory, by Part and by block;
/// empty: all stay on the device. Any choice gives the same numbers bit for bit.
struct Residence {
  std::array<std::vector<bool>, 2> visits;

  bool visit(Part part, size_t block) const {
    const auto& list = visits[static_cast<size_t>(part)];
    return !list.empty() && list[block];
  }
};

/// The parameters of a transformer together with their memory.
class LoadedWeights {
 public:
  /// Reads a transformer's folder or single file: matrices in `format`, biases and norms as `act`,
  /// the dtype of activations. One tensor at a time passes through the host. Throws Error
  /// (bad_input) naming file, tensor, expected and found shape, Error (environment) when memory is
  /// not there.
  LoadedWeights(Device& device, const std::filesystem::path& path, const Config& config, DType act,
                WeightFormat format, const Residence& residence = {});
  /// Memory for them and nothing in it: for plans on paper.
  LoadedWeights(Device& device, const Config& config, DType act, WeightFormat format,
                const Residence& residence = {});

  Weights& weights() { return weights_; }

  /// Operations that read this part of block n (double blocks first) stand between lease and
  /// release. Free for what stays.
  void lease(Part part, size_t n);
  void release(Part part, size_t n, Walk walk);

  /// Calls f(BFL name, layer) for every linear layer, in the model's order, while operations find
  /// its matrix on the device.
  void visit_resident(const std::function<void(const std::string&, AdaptedLinear&)>& f);

  /// What the weights take on the device, and in the host's pinned memory.
  int64_t device_bytes() const;
  int64_t host_bytes() const;

 private:
  void reserve(Device& device, const Residence& residence, const WeightBytes& bytes);
  void upload(Device& device, const TensorSource& source, const Config& config);
  BlockStore& store(Part part) { return stores_[static_cast<size_t>(part)]; }
  /// Its number among the parts that visit; nothing when it stays.
  std::optional<size_t> piece(Part part, size_t block) const {
    return pieces_[static_cast<size_t>(part)][block];
  }

  std::array<std::vector<std::optional<size_t>>, 2> pieces_;  // by Part, by block
  std::array<BlockStore, 2> stores_;                          // by Part
  Arena resident_;
  Weights weights_;
};

}  // namespace fluxlora::flux
