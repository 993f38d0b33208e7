// SPDX-License-Identifier: Apache-2.0
// From packed latents, token states, pooled vector, time and guidance to the streams and the
// conditioning vector (flux-facts 1.3), and the rotary table (1.4).
#pragma once

#include "model/flux/types.h"
#include "model/flux/weights.h"

namespace fluxlora::flux {

/// What the transformer reads. All in device memory, activations' dtype but t and guidance.
struct Inputs {
  Tensor img;       // (B, N, C)          packed latents at time t
  Tensor txt;       // (B, M, context_in) T5 token states
  Tensor pooled;    // (B, vec_in)        CLIP
  Tensor t;         // (B)                flow time, f32 or f64
  Tensor guidance;  // (B)                as the user says it (3.5); ignored by schnell
};

/// One embedder's way: sinusoid or pooled vector, hidden, activated, output.
struct MlpSaved {
  Tensor x;            // (B, C)  empty for vector_in, whose input is the pooled vector itself
  Tensor u;            // (B, D)
  Tensor a;            // (B, D)  SiLU(u)
  Tensor y;            // (B, D)
  Tensor in_t, out_t;  // (B, ΣR)
};

struct EmbedSaved {
  MlpSaved time, guidance, vector;
  Tensor vec;       // (B, D)  the conditioning vector
  Tensor silu_vec;  // (B, D)
  Tensor x;         // (B, S, D)  both streams, text first
  Tensor img_t;     // (B, N, ΣR)
  Tensor txt_t;     // (B, M, ΣR)

  template <typename F>
  void visit(const Sizes& z, const Weights& w, F&& f) {
    const auto mlp = [&](const std::string& name, MlpSaved& s, const MlpEmbedder& e,
                         bool sinusoid) {
      if (!e.in_layer.weight) return;
      if (sinusoid) f(name + ".x", s.x, {z.B, e.in_layer.in()}, z.act);
      f(name + ".u", s.u, {z.B, z.D}, z.act);
      f(name + ".a", s.a, {z.B, z.D}, z.act);
      f(name + ".y", s.y, {z.B, z.D}, z.act);
      f(name + ".in_t", s.in_t, {z.B, e.in_layer.kept_columns()}, z.act);
      f(name + ".out_t", s.out_t, {z.B, e.out_layer.kept_columns()}, z.act);
    };
    mlp("time_in", time, w.time_in, true);
    mlp("guidance_in", guidance, w.guidance_in, true);
    mlp("vector_in", vector, w.vector_in, false);
    f("vec", vec, {z.B, z.D}, z.act);
    f("silu_vec", silu_vec, {z.B, z.D}, z.act);
    f("x", x, {z.B, z.S(), z.D}, z.act);
    f("img_t", img_t, {z.B, z.N(), w.img_in.kept_columns()}, z.act);
    f("txt_t", txt_t, {z.B, z.M, w.txt_in.kept_columns()}, z.act);
  }
};

void forward(Ops& op, const Sizes& z, const Weights& w, const Inputs& in, EmbedSaved& s);

/// The mirror: adapters of the embedders, and d_pooled (B, vec_in; empty: not needed) for a CLIP
/// LoRA. dx (B, S, D); d_silu_vec (B, D) or empty. d_vec, d_mlp (B, D) are scratch.
struct EmbedGrads {
  Tensor dx, d_silu_vec;
  Tensor d_pooled;
  Tensor d_vec, d_mlp;
};
void backward(Ops& op, const Sizes& z, const Weights& w, const Inputs& in, const EmbedSaved& s,
              const EmbedGrads& d, const Scratch& scratch);

/// Fills `table` (S, K/2, 2) on the host, f32 or f64, with cos and sin of the rotary angles: text
/// tokens at (0, 0, 0), image tokens at (0, row, column), row-major. Angles in double.
void fill_rotary_table(const Tensor& table, const Sizes& z, const Config& config);

}  // namespace fluxlora::flux
