// SPDX-License-Identifier: Apache-2.0
// CpuOps: the vocabulary of ops/ops.h on all cores. One file a family; see there for the formulas.
#pragma once

#include "backend/cpu/scratch.h"
#include "ops/ops.h"

namespace fluxlora {

class CpuOps final : public Ops {
 public:
  // memory.cpp
  void copy(const Tensor& y, const Tensor& x) override;
  void fill(const Tensor& y, double value) override;
  void cast(const Tensor& y, const Tensor& x) override;
  void add_scaled(const Tensor& y, const Tensor& x, double alpha) override;
  void quantise(const Weight& w, const Tensor& x) override;

  // linear.cpp
  void linear(const Tensor& y, const Tensor& x, const Weight& w, const Tensor& bias,
              Grad mode) override;
  void linear_dx(const Tensor& dx, const Tensor& dy, const Weight& w, Grad mode) override;
  void dense(const Tensor& y, const Tensor& x, const Tensor& a, const Scale& scale,
             Grad mode) override;
  void dense_dx(const Tensor& dx, const Tensor& dy, const Tensor& a, const Scale& scale,
                Grad mode) override;
  void dense_dw(const Tensor& da, const Tensor& dy, const Tensor& x, const Scale& scale,
                Grad mode) override;

  // modulate.cpp
  void ln_modulate(const Tensor& h, const Tensor& stats, const Tensor& x, const Tensor& shift,
                   const Tensor& scale) override;
  void ln_modulate_bwd(const Tensor& dx, const Tensor& d_shift, const Tensor& d_scale,
                       const Tensor& dh, const Tensor& x, const Tensor& stats, const Tensor& scale,
                       Grad mode) override;
  void gate_add(const Tensor& x_out, const Tensor& x, const Tensor& y, const Tensor& gate) override;
  void gate_add_bwd(const Tensor& dy, const Tensor& d_gate, const Tensor& dx, const Tensor& y,
                    const Tensor& gate) override;

  // norm.cpp
  void layer_norm(const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight,
                  const Tensor& bias, double eps) override;
  void layer_norm_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& stats,
                      const Tensor& weight, Grad mode) override;
  void rms_norm(const Tensor& y, const Tensor& x, const Tensor& weight, double eps) override;
  void group_norm(const Tensor& y, const Tensor& x, const Tensor& weight, const Tensor& bias,
                  int64_t groups, double eps, bool silu) override;

  // rope.cpp
  void qk_norm_rope(const Tensor& q, const Tensor& k, const Tensor& qkv, const Tensor& q_weight,
                    const Tensor& k_weight, const Tensor& pe, int64_t heads) override;
  void qk_norm_rope_bwd(const Tensor& d_qkv, const Tensor& dq, const Tensor& dk, const Tensor& qkv,
                        const Tensor& q_weight, const Tensor& k_weight, const Tensor& pe,
                        int64_t heads) override;

  // attention.cpp
  void attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                 const Tensor& v, const AttentionOptions& options) override;
  void attention_bwd(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& d_out,
                     const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                     const Tensor& v, const AttentionOptions& options) override;

  // pointwise.cpp
  void gelu_tanh(const Tensor& y, const Tensor& x) override;
  void gelu_tanh_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x) override;
  void silu(const Tensor& y, const Tensor& x) override;
  void silu_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x, Grad mode) override;
  void quick_gelu(const Tensor& y, const Tensor& x) override;
  void quick_gelu_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x) override;
  void gelu_gate(const Tensor& y, const Tensor& gate, const Tensor& up) override;

  // adapters.cpp
  void dropout(const Tensor& x, const DropoutOptions& options) override;
  void dora_gain(const Tensor& gain, const Tensor& scaled_b, const Tensor& magnitude,
                 const RowNorms& norms) override;
  void dora_scale(const Tensor& y, const Tensor& bias, const DoraScale& dora) override;
  void dora_scale_bwd(const Tensor& dy, const Tensor& d_magnitude, const Tensor& y,
                      const Tensor& bias, const DoraScale& dora) override;

  // embed.cpp
  void embed(const Tensor& y, const Tensor& ids, const Tensor& table) override;
  void timestep_embed(const Tensor& y, const Tensor& t) override;

  // conv.cpp
  void conv2d(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias,
              const ConvOptions& options) override;
  void upsample2x(const Tensor& y, const Tensor& x) override;

  // loss.cpp
  void flow_interpolate(const Tensor& x_t, const Tensor& x0, const Tensor& noise,
                        const Tensor& t) override;
  void flow_loss(const Tensor& loss, const Tensor& d_pred, const Tensor& pred, const Tensor& x0,
                 const Tensor& noise, const Tensor& weight, const Tensor& mask,
                 const Penalty& penalty) override;

  // optim.cpp
  void global_norm(const Tensor& norm, const Tensor& g) override;
  void adamw_step(const Tensor& p, const Tensor& m, const Tensor& v, const Tensor& g,
                  const Tensor& norm, const Tensor& scalars, const AdamWOptions& options) override;
  void lion_step(const Tensor& p, const Tensor& m, const Tensor& g, const Tensor& norm,
                 const Tensor& scalars, const LionOptions& options) override;
  void adamw8bit_step(const Tensor& p, const Moments8& moments, const Tensor& g, const Tensor& norm,
                      const Tensor& scalars, const AdamWOptions& options) override;
  void schedule_free_step(const Tensor& y, const Tensor& z, const Tensor& v, const Tensor& g,
                          const Tensor& norm, const Tensor& scalars,
                          const ScheduleFreeOptions& options) override;

  // optim_sums.cpp
  void prodigy_moments(const Tensor& sums, const Tensor& p, const ProdigyState& state,
                       const Tensor& g, const Tensor& norm, const Tensor& scalars,
                       const ProdigyOptions& options) override;
  void prodigy_step(const Tensor& p, const ProdigyState& state, const Tensor& scalars,
                    const ProdigyOptions& options) override;
  void adafactor_step(const Tensor& p, const Tensor& row, const Tensor& column, const Tensor& g,
                      const Tensor& norm, const Tensor& scalars,
                      const AdafactorOptions& options) override;

 private:
  Scratch scratch_;
};

}  // namespace fluxlora
