// SPDX-License-Identifier: Apache-2.0
// Ops: the whole vocabulary that the model is written in, and all that a backend must be able to
// do.
//
// The law (docs/design.md): outputs first, then inputs, all views; an operation returns nothing,
// allocates nothing and broadcasts nothing beyond what its comment says; shapes are exact. Every
// operation that the trained path needs has its `_bwd` twin. A fused operation has a default body
// that composes the simple ones (composite.cpp); a backend overrides it where fusing pays.
//
// Dimensions: docs/notation.md. (B, T, C) activations may be strided in B and T ("rows views"); all
// activations of one call have one dtype: f32 or f64 on the CPU, f32 or bf16 on a GPU. So have the
// frozen vectors beside them (norm weights, biases). Statistics, losses, tables, the clean pictures
// and noise of the flow, trained parameters and their gradients are f32, or f64 when the
// activations are f64. Adapter matrices may also come as copies in the activations' dtype. An empty
// view for an output means "not needed".
#pragma once

#include <span>

#include "tensor/tensor.h"
#include "tensor/weight.h"

namespace fluxlora {

/// What happens to the destination of a gradient or of a product.
enum class Grad { ignore, overwrite, accumulate };

/// A factor `value * factor[0]`. `factor` is an f32 scalar in device memory, so that a captured
/// step can change it; empty means 1. A product whose factor is 0 adds nothing: with
/// Grad::accumulate its destination stays as it is bit for bit, with Grad::overwrite it becomes 0.
struct Scale {
  double value = 1;
  Tensor factor = {};
};

/// One product of a group: y (+)= x Wᵀ + bias.
struct LinearCall {
  Tensor y;                        // (B, T, out)
  Tensor x;                        // (B, T, in)
  const Weight* weight = nullptr;  // (out, in)
  Tensor bias;                     // (out) or empty
  Grad mode = Grad::overwrite;
};

struct AttentionOptions {
  int64_t heads = 1;
  double scale = 1;     ///< multiplies q kᵀ
  bool causal = false;  ///< token i sees tokens 0 .. i
  Tensor bias = {};     ///< (H, S, S), added to the scaled scores; empty for none
};

/// Stride and zero padding of a convolution; the kernel size is the weight's.
struct ConvOptions {
  int64_t stride = 1;
  int64_t pad_before = 1;  ///< rows above and columns to the left
  int64_t pad_after = 1;   ///< rows below and columns to the right
};

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
  double max_norm = 1.0;  ///< gradients are scaled by min(1, max_norm / norm); 0 means never
};

struct LionOptions {
  double beta1 = 0.9, beta2 = 0.99, weight_decay = 0.01;
  double max_norm = 1.0;  ///< as AdamW's
};

/// Both moments of Adam in 8 bit: a code for each number, a scale for each block of kMomentBlock.
struct Moments8 {
  Tensor m, v;              // (n) u8
  Tensor m_scale, v_scale;  // (ceil(n / kMomentBlock)): the largest absolute value of the block
  Tensor codes;             // (2, 256): what the codes of m and of v mean, ascending
};
inline constexpr int64_t kMomentBlock = 256;

struct ScheduleFreeOptions {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
  double max_norm = 1.0;  ///< as AdamW's
};

/// Prodigy's buffers, all flat.
struct ProdigyState {
  Tensor m, v;  // moments of d g
  Tensor s;     // the sum whose 1-norm is the denominator of d
  Tensor p0;    // the parameters at the start
};
struct ProdigyOptions {
  double beta1 = 0.9, beta2 = 0.999, beta3 = 0.9995, eps = 1e-8, weight_decay = 0.01;
  double max_norm = 1.0;  ///< as AdamW's
};

struct AdafactorOptions {
  double eps_square = 1e-30, eps_scale = 1e-3, clip_threshold = 1, weight_decay = 0.01;
  bool scale_parameter = false;  ///< the rate is times max(eps_scale, rms(p))
  double max_norm = 1.0;         ///< as AdamW's
};

/// What a difference e costs: e², or k (sqrt(e² + c²) - c), which is a line where e is far above c.
struct Penalty {
  double c = 0, k = 0;  ///< c = 0: e²
};

/// Element i of (B, T, C), counted in order, stays where word i mod 4 of Philox (base/philox.h)
/// with key = seed and counter = {i / 4, adapter_draw(layer), step, micro-step} is at least rate
/// 2^32.
struct DropoutOptions {
  double rate = 0;     ///< share of the elements that is set aside, below 1
  uint32_t layer = 0;  ///< number of the layer
  Tensor draw;         ///< (5) i32: on, seed (low, high), step, micro-step; on = 0: all stay
};

/// What the norms of W + s B A by rows are made of, without that matrix.
struct RowNorms {
  Tensor square;     // (O): |W|² by rows, in the dtype of statistics
  Tensor cross;      // (R, O) = A Wᵀ
  Tensor second;     // (O, R) = B A Aᵀ
  Tensor B;          // (O, R), as the activations
  double scale = 1;  ///< s
};

/// DoRA's factor of an output.
struct DoraScale {
  Tensor gain;        // (O): magnitude / norm
  Tensor magnitude;   // (O)
  Tensor multiplier;  // (1) f32: m
};

class Ops {
 public:
  virtual ~Ops() = default;

  // ---- memory ------------------------------------------------------------------------------
  /// y = x, any strides, equal shapes and dtypes.
  virtual void copy(const Tensor& y, const Tensor& x) = 0;
  /// y = value everywhere.
  virtual void fill(const Tensor& y, double value) = 0;
  /// y = x converted to y's dtype. Contiguous.
  virtual void cast(const Tensor& y, const Tensor& x) = 0;
  /// y += alpha x, equal shapes.
  virtual void add_scaled(const Tensor& y, const Tensor& x, double alpha) = 0;
  /// w = x in the bits of its format, as tensor/quantise.h says. x (out, in) contiguous, in the
  /// dtype of activations.
  virtual void quantise(const Weight& w, const Tensor& x) = 0;

  // ---- products ----------------------------------------------------------------------------
  /// y (+)= x Wᵀ + bias.  y (B, T, out), x (B, T, in), bias (out) or empty; (B, C) for vectors.
  virtual void linear(const Tensor& y, const Tensor& x, const Weight& w, const Tensor& bias,
                      Grad mode = Grad::overwrite) = 0;
  /// dx (+)= dy W.  dx (B, T, in), dy (B, T, out).
  virtual void linear_dx(const Tensor& dx, const Tensor& dy, const Weight& w, Grad mode) = 0;
  /// Independent products of both streams; the default body loops.
  virtual void linear_group(std::span<const LinearCall> calls);

  /// y (+)= scale x aᵀ.  y (B, T, R), x (B, T, C), a (R, C): a small trained matrix, in its own
  /// dtype or the activations'.
  virtual void dense(const Tensor& y, const Tensor& x, const Tensor& a, const Scale& scale,
                     Grad mode) = 0;
  /// dx (+)= scale dy a.  dx (B, T, C), dy (B, T, R), a (R, C).
  virtual void dense_dx(const Tensor& dx, const Tensor& dy, const Tensor& a, const Scale& scale,
                        Grad mode) = 0;
  /// da (+)= scale Σ_rows dyᵀ x.  da (R, C) in the dtype of trained parameters, dy (B, T, R),
  /// x (B, T, C).
  virtual void dense_dw(const Tensor& da, const Tensor& dy, const Tensor& x, const Scale& scale,
                        Grad mode) = 0;

  // ---- norms -------------------------------------------------------------------------------
  /// h = LN(x) (1 + scale) + shift, LN without weights, eps 1e-6 (flux-facts 1.5).
  /// h, x (B, T, D); stats (B, T, 2) receives mean and 1/std; shift, scale (B, D).
  virtual void ln_modulate(const Tensor& h, const Tensor& stats, const Tensor& x,
                           const Tensor& shift, const Tensor& scale) = 0;
  /// dx (+)= , d_shift = Σ_t dh, d_scale = Σ_t dh LN(x); the last two may be empty.
  virtual void ln_modulate_bwd(const Tensor& dx, const Tensor& d_shift, const Tensor& d_scale,
                               const Tensor& dh, const Tensor& x, const Tensor& stats,
                               const Tensor& scale, Grad mode) = 0;

  /// x_out = x + gate y.  x_out, x, y (B, T, D); gate (B, D). x_out may be x.
  virtual void gate_add(const Tensor& x_out, const Tensor& x, const Tensor& y,
                        const Tensor& gate) = 0;
  /// dy = gate dx, d_gate = Σ_t dx y (empty: not needed, then y may be empty too).
  virtual void gate_add_bwd(const Tensor& dy, const Tensor& d_gate, const Tensor& dx,
                            const Tensor& y, const Tensor& gate) = 0;

  /// x_out = x + gate y; h, stats = ln_modulate(x_out). An empty y means x_out = x; then x_out may
  /// be x itself.
  virtual void gate_add_ln_modulate(const Tensor& x_out, const Tensor& h, const Tensor& stats,
                                    const Tensor& x, const Tensor& y, const Tensor& gate,
                                    const Tensor& shift, const Tensor& scale);
  /// dx holds dL/dx_out of the residual path on entry and dL/dx on return; dy, d_gate as in
  /// gate_add_bwd (an empty dy: there was no y), d_shift and d_scale as in ln_modulate_bwd.
  virtual void gate_add_ln_modulate_bwd(const Tensor& dx, const Tensor& dy, const Tensor& d_gate,
                                        const Tensor& d_shift, const Tensor& d_scale,
                                        const Tensor& dh, const Tensor& x_out, const Tensor& stats,
                                        const Tensor& scale, const Tensor& y, const Tensor& gate);

  /// y = (x - mean) / std weight + bias over the last dimension. stats (B, T, 2) as above.
  virtual void layer_norm(const Tensor& y, const Tensor& stats, const Tensor& x,
                          const Tensor& weight, const Tensor& bias, double eps) = 0;
  virtual void layer_norm_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x,
                              const Tensor& stats, const Tensor& weight, Grad mode) = 0;
  /// y = x / sqrt(mean(x²) + eps) weight over the last dimension (T5).
  virtual void rms_norm(const Tensor& y, const Tensor& x, const Tensor& weight, double eps) = 0;
  /// GroupNorm of (B, P, C) over P and C/groups, affine, followed by SiLU if asked (VAE). y may be
  /// x.
  virtual void group_norm(const Tensor& y, const Tensor& x, const Tensor& weight,
                          const Tensor& bias, int64_t groups, double eps, bool silu) = 0;

  // ---- attention ---------------------------------------------------------------------------
  /// Per head RMSNorm (eps 1e-6, weights (K)) of q and k, then rotation by pe
  /// (flux-facts 1.4, 1.5). q, k (B, T, D); qkv (B, T, >= 2D): columns [0, D) are q, [D, 2D) are k;
  /// pe (T, K/2, 2) holds cos and sin; pairs are the elements (2i, 2i+1). D = heads K.
  virtual void qk_norm_rope(const Tensor& q, const Tensor& k, const Tensor& qkv,
                            const Tensor& q_weight, const Tensor& k_weight, const Tensor& pe,
                            int64_t heads) = 0;
  /// Columns [0, 2D) of d_qkv = the gradient of the q and k columns of qkv.
  virtual void qk_norm_rope_bwd(const Tensor& d_qkv, const Tensor& dq, const Tensor& dk,
                                const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                                const Tensor& pe, int64_t heads) = 0;
  /// out = softmax(scale q kᵀ + bias) v per head; feature = head K + e. out, q, k, v (B, S, H K)
  /// rows views; lse (B, H, S) = log-sum-exp of the scores, for the backward, or empty.
  virtual void attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                         const Tensor& v, const AttentionOptions& options) = 0;
  /// dq, dk, dv overwritten.
  virtual void attention_bwd(const Tensor& dq, const Tensor& dk, const Tensor& dv,
                             const Tensor& d_out, const Tensor& out, const Tensor& lse,
                             const Tensor& q, const Tensor& k, const Tensor& v,
                             const AttentionOptions& options) = 0;

  // ---- pointwise, equal shapes, rows views -----------------------------------------------------
  /// 0.5 x (1 + tanh(sqrt(2/π) (x + 0.044715 x³))).
  virtual void gelu_tanh(const Tensor& y, const Tensor& x) = 0;
  virtual void gelu_tanh_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x) = 0;
  /// x σ(x).
  virtual void silu(const Tensor& y, const Tensor& x) = 0;
  virtual void silu_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x, Grad mode) = 0;
  /// x σ(1.702 x) (CLIP).
  virtual void quick_gelu(const Tensor& y, const Tensor& x) = 0;
  virtual void quick_gelu_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x) = 0;
  /// y = gelu_tanh(gate) up (T5).
  virtual void gelu_gate(const Tensor& y, const Tensor& gate, const Tensor& up) = 0;

  // ---- adapters ------------------------------------------------------------------------------
  /// x = x stays / (1 - rate), x (B, T, C) or (B, C), rows views. Its own backward.
  virtual void dropout(const Tensor& x, const DropoutOptions& options) = 0;
  /// gain[o] = magnitude[o] / sqrt(square[o] + 2 s Σ_r cross[r, o] B[o, r] + s² Σ_r second[o, r]
  /// B[o, r]), which is |W + s B A| of row o (DoRA: Liu et al. 2024); scaled_b = gain B by rows.
  virtual void dora_gain(const Tensor& gain, const Tensor& scaled_b, const Tensor& magnitude,
                         const RowNorms& norms) = 0;
  /// y += m (gain - 1) (y - bias) by columns. y (B, T, O) or (B, O), bias (O) or empty. m = 0
  /// leaves y bit for bit.
  virtual void dora_scale(const Tensor& y, const Tensor& bias, const DoraScale& dora) = 0;
  /// d_magnitude += Σ_rows dy (y - bias) / magnitude, y being the whole output at m = 1, the norm
  /// a constant (DoRA 4.3); then dy *= 1 + m (gain - 1). An empty d_magnitude: not needed, then y
  /// may be empty too.
  virtual void dora_scale_bwd(const Tensor& dy, const Tensor& d_magnitude, const Tensor& y,
                              const Tensor& bias, const DoraScale& dora) = 0;

  // ---- embeddings, pictures ------------------------------------------------------------------
  /// y[b, t, :] = table[ids[b, t], :].  ids (B, T) i32, table (V, C), y (B, T, C).
  virtual void embed(const Tensor& y, const Tensor& ids, const Tensor& table) = 0;
  /// y[b] = [cos(τ f_k), sin(τ f_k)], τ = 1000 t[b], f_k = 10000^(-k / (C/2)) (flux-facts 1.3).
  /// y (B, C), t (B) f32 or f64.
  virtual void timestep_embed(const Tensor& y, const Tensor& t) = 0;
  /// Convolution of channel-last pictures: x (B, H, W, C), w (O, kh, kw, C), bias (O).
  virtual void conv2d(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias,
                      const ConvOptions& options) = 0;
  /// Nearest neighbour: y (B, 2H, 2W, C), x (B, H, W, C).
  virtual void upsample2x(const Tensor& y, const Tensor& x) = 0;

  // ---- flow ----------------------------------------------------------------------------------
  /// x_t[b] = (1 - t[b]) x0[b] + t[b] noise[b].  (B, N, C), t (B). x_t is an activation, the others
  /// are not.
  virtual void flow_interpolate(const Tensor& x_t, const Tensor& x0, const Tensor& noise,
                                const Tensor& t) = 0;
  /// loss[b] = mean_b mask penalty(pred - (noise - x0)); d_pred = weight[b] · d loss[b] / d pred.
  /// pred, x0, noise, d_pred (B, N, C), pred and d_pred activations; loss, weight (B). The caller
  /// folds 1/B into weight. mask (B, N, P), C a multiple of P: element c of a token counts
  /// mask[c mod P] times, which are the P pixels of a packed patch (flow/pack.h); empty: once.
  virtual void flow_loss(const Tensor& loss, const Tensor& d_pred, const Tensor& pred,
                         const Tensor& x0, const Tensor& noise, const Tensor& weight,
                         const Tensor& mask = {}, const Penalty& penalty = {}) = 0;

  // ---- update, flat contiguous buffers ---------------------------------------------------------
  /// norm[0] = |g|₂, summed in a fixed order.
  virtual void global_norm(const Tensor& norm, const Tensor& g) = 0;
  /// AdamW with decoupled decay (flux-facts 7.10). p, m, v, g flat; norm[0] = |g| for the clip;
  /// scalars (3) = {learning rate, 1 - beta1^t, 1 - beta2^t}.
  virtual void adamw_step(const Tensor& p, const Tensor& m, const Tensor& v, const Tensor& g,
                          const Tensor& norm, const Tensor& scalars,
                          const AdamWOptions& options) = 0;
  /// Lion (Chen et al., 2023): p = (1 - lr λ) p - lr sign(beta1 m + (1 - beta1) g), then
  /// m = beta2 m + (1 - beta2) g. p, m, g flat; norm[0] = |g|; scalars (1) = {lr}.
  virtual void lion_step(const Tensor& p, const Tensor& m, const Tensor& g, const Tensor& norm,
                         const Tensor& scalars, const LionOptions& options) = 0;
  /// adamw_step() with moments in 8 bit (Dettmers et al., 2022): they are decoded, updated, used,
  /// and encoded again, each as the nearest code of its value over the block's largest one.
  virtual void adamw8bit_step(const Tensor& p, const Moments8& moments, const Tensor& g,
                              const Tensor& norm, const Tensor& scalars,
                              const AdamWOptions& options) = 0;
  /// Schedule-free AdamW (Defazio et al., 2024). y, z, v, g flat; scalars (3) = {lr, c, 1 -
  /// beta2^t}: v = beta2 v + (1 - beta2) g²; d = g / (sqrt(v / scalars[2]) + eps) + λ y; y = (1 -
  /// c) y + c z - lr (1 - beta1 (1 - c)) d; z = z - lr d.
  virtual void schedule_free_step(const Tensor& y, const Tensor& z, const Tensor& v,
                                  const Tensor& g, const Tensor& norm, const Tensor& scalars,
                                  const ScheduleFreeOptions& options) = 0;
  /// Prodigy's moments (Mishchenko and Defazio, 2024); scalars (2) = {d, w}: m = beta1 m + (1 -
  /// beta1) d g, v = beta2 v + (1 - beta2) d² g², s = beta3 s + w g; sums (2) = {g·(p0 - p), |s|₁},
  /// summed in a fixed order.
  virtual void prodigy_moments(const Tensor& sums, const Tensor& p, const ProdigyState& state,
                               const Tensor& g, const Tensor& norm, const Tensor& scalars,
                               const ProdigyOptions& options) = 0;
  /// p = (1 - λ lr) p - lr m / (sqrt(v) + d eps); scalars (2) = {lr, d}.
  virtual void prodigy_step(const Tensor& p, const ProdigyState& state, const Tensor& scalars,
                            const ProdigyOptions& options) = 0;
  /// Adafactor of one matrix (Shazeer and Stern, 2018) without a first moment. p, g (R, C); row
  /// (R), column (C): means over columns and rows of g² + eps_square, with memory beta; scalars (2)
  /// = {lr, beta}. u = g / sqrt(row column / mean(row)); p = (1 - λ lr) p - lr u / max(1, rms(u) /
  /// clip_threshold).
  virtual void adafactor_step(const Tensor& p, const Tensor& row, const Tensor& column,
                              const Tensor& g, const Tensor& norm, const Tensor& scalars,
                              const AdafactorOptions& options) = 0;
};

}  // namespace fluxlora
