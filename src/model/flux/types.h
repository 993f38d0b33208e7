// SPDX-License-Identifier: Apache-2.0
// What the parts of the transformer hand to each other.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "model/flux/config.h"
#include "ops/ops.h"

namespace fluxlora::flux {

/// The two streams of a double block. Text comes first in every joint tensor.
enum Stream : int { txt = 0, img = 1 };
inline constexpr std::array<Stream, 2> kStreams{txt, img};

/// The sizes of one batch.
struct Sizes {
  int64_t B = 1;         ///< pictures
  int64_t M = 512;       ///< text tokens
  int64_t rows = 64;     ///< image tokens down,
  int64_t columns = 64;  ///< and across
  int64_t D = 3072, H = 24, K = 128, F = 12288;
  DType act = DType::f32;  ///< dtype of activations

  int64_t N() const { return rows * columns; }
  int64_t S() const { return M + N(); }
  int64_t tokens(Stream s) const { return s == txt ? M : N(); }
  /// The rows of stream s in a joint (B, S, C) tensor.
  Tensor of(Stream s, const Tensor& joint) const {
    if (!joint) return {};
    return s == txt ? joint.tokens(0, M) : joint.tokens(M, N());
  }
  /// dtype of statistics and tables.
  DType stat() const { return act == DType::f64 ? DType::f64 : DType::f32; }
};

/// What conditions every block.
struct Conditioning {
  Tensor silu_vec;  // (B, D): SiLU of the conditioning vector, the input of every modulation
  Tensor pe;        // (S, K/2, 2): cosines and sines of the rotary positions
};

/// The output of a block that the next one adds: x + gate y. The first operation of a block applies
/// what the block before left pending, so that a backend can fuse across the boundary.
struct Pending {
  Tensor y;                    // (B, S, D); empty before the first block
  std::array<Tensor, 2> gate;  // (B, D) by stream; one tensor twice after a single block
};

/// Gradients that a block's backward reads and writes, beside Scratch::d_y.
struct BlockGrads {
  Tensor dx;                    // (B, S, D): dL/dx of the residual stream, in and out
  std::array<Tensor, 2> d_mod;  // own modulation (B, 6D) by stream or (B, 3D); empty: not needed
  std::array<Tensor, 2> d_gate_before;  // (B, D): where the gradient of the pending gates goes
  Tensor d_silu_vec;                    // (B, D), accumulates; empty: not needed
};

/// The steps of a block's forward. A bit set, so that what was not kept can be made again before
/// the backward.
enum class Stage : unsigned {
  modulate = 1,    ///< the modulation vectors
  norm = 2,        ///< residual, first norm
  project = 4,     ///< q, k, v; the single block's mlp with them
  rotate = 8,      ///< norm and rotation of q and k
  attend = 16,     ///< attention
  merge = 32,      ///< its projection (double blocks)
  renorm = 64,     ///< residual, second norm (double blocks)
  expand = 128,    ///< first product of the feed-forward (double blocks)
  activate = 256,  ///< GELU
  contract = 512,  ///< last product
  all = 1023,
};
constexpr bool has(Stage set, Stage one) {
  return (static_cast<unsigned>(set) & static_cast<unsigned>(one)) != 0;
}
constexpr Stage operator|(Stage a, Stage b) {
  return static_cast<Stage>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}

/// How much of a block the forward leaves in memory of its own. What is missing is made again, by
/// the same operations from the same numbers, so that every level gives the same gradients bit for
/// bit. Each level has what the one before it has, and more.
enum class Keep : int {
  input,      ///< the stream, the modulation, and what the last product's adapters read
  attention,  ///< attention's output: all products but the last are made again
  products,   ///< and the products' outputs: norms, rotation and GELU are made again
  all,        ///< nothing is made again
};
inline constexpr std::array<Keep, 4> kKeepLevels{Keep::input, Keep::attention, Keep::products,
                                                 Keep::all};

/// How long one of a block's tensors is needed.
enum class Lives {
  on,       ///< until its backward
  to_next,  ///< until the next block has read it: one place serves all blocks in turn
  in_block  ///< within the block's forward, and again within its backward: likewise
};

/// What a block keeps. `outputs`: also the outputs that only the gradients of gates or of DoRA's
/// magnitudes need.
struct Kept {
  Keep level = Keep::all;
  bool outputs = true;

  Lives from(Keep first) const { return level >= first ? Lives::on : Lives::in_block; }
  Lives output(Lives otherwise) const { return outputs ? Lives::on : otherwise; }
};

/// A range of tokens whose pending output has one gate.
struct PendingPart {
  int64_t first, count;
  int stream;  ///< index into Pending::gate
};

/// The whole sequence as one part where both streams share a gate (or nothing is pending), else
/// two.
inline std::span<const PendingPart> pending_parts(const Sizes& z, const Pending& p,
                                                  std::array<PendingPart, 2>& storage) {
  const bool joint = !p.y || p.gate[txt].data() == p.gate[img].data();
  storage = {PendingPart{0, joint ? z.S() : z.M, 0}, PendingPart{z.M, z.N(), 1}};
  return {storage.data(), joint ? 1u : 2u};
}

/// Scratch of the backward, shared by all blocks.
struct Scratch {
  Tensor d_h;     // (B, S, D)
  Tensor d_y;     // (B, S, D): gradient of what a block adds; between blocks that of Pending::y
  Tensor d_attn;  // (B, S, D)
  Tensor dq, dk;  // (B, S, D)
  Tensor d_wide;  // (B, S, 3D + F): single linear1; columns of it serve qkv and the feed-forward
  Tensor d_cat;   // (B, S, D + F): single linear2's input
  Tensor d_t;     // (B S, widest ΣR) for adapters; empty without
  Tensor d_mod;   // (4, B, 6D): modulation gradients of two blocks, both streams; empty: not needed
  Tensor d_sums;  // (B, 2D): sums of a second part, before they are added to d_mod

  /// f(name, tensor, shape, dtype) for each.
  template <typename F>
  void visit(const Sizes& z, int64_t widest_rank, bool d_modulation, F&& f) {
    f("d_h", d_h, {z.B, z.S(), z.D}, z.act);
    f("d_y", d_y, {z.B, z.S(), z.D}, z.act);
    f("d_attn", d_attn, {z.B, z.S(), z.D}, z.act);
    f("dq", dq, {z.B, z.S(), z.D}, z.act);
    f("dk", dk, {z.B, z.S(), z.D}, z.act);
    f("d_wide", d_wide, {z.B, z.S(), 3 * z.D + z.F}, z.act);
    f("d_cat", d_cat, {z.B, z.S(), z.D + z.F}, z.act);
    f("d_t", d_t, {z.B * z.S(), widest_rank}, z.act);
    if (!d_modulation) return;
    f("d_mod", d_mod, {4, z.B, 6 * z.D}, z.act);
    f("d_sums", d_sums, {z.B, 2 * z.D}, z.act);
  }

  /// A contiguous (B, T, ranks) piece of d_t, or (B, ranks) for T = 0.
  Tensor dt(int64_t B, int64_t T, int64_t ranks) const {
    if (!ranks) return {};
    const Tensor flat(d_t.dtype(), {d_t.size()}, d_t.data());
    const int64_t count = B * (T ? T : 1) * ranks;
    const Tensor piece = flat.slice(0, 0, count);
    return T ? piece.reshaped({B, T, ranks}) : piece.reshaped({B, ranks});
  }
};

}  // namespace fluxlora::flux
