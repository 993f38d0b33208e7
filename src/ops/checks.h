// SPDX-License-Identifier: Apache-2.0
// The contracts of ops.h as programmer checks, shared by all backends: shapes, dtypes, strides.
// Each takes what the operation takes and aborts by CHECK. They cost nanoseconds.
#pragma once

#include "ops/ops.h"

namespace fluxlora::checks {

/// Equal shapes and dtypes.
void same(const char* op, const Tensor& y, const Tensor& x);
void cast(const Tensor& y, const Tensor& x);
void quantise(const Weight& w, const Tensor& x);
void linear(const Tensor& y, const Tensor& x, const Weight& w, const Tensor& bias);
/// y (rows, R), x (rows, C), a (R, C): the three products with a small trained matrix.
void dense(const char* op, const Tensor& y, const Tensor& x, const Tensor& a);

void ln_modulate(const Tensor& h, const Tensor& stats, const Tensor& x, const Tensor& shift,
                 const Tensor& scale);
void ln_modulate_bwd(const Tensor& dx, const Tensor& d_shift, const Tensor& d_scale,
                     const Tensor& dh, const Tensor& x, const Tensor& stats, const Tensor& scale);
void gate_add(const Tensor& x_out, const Tensor& x, const Tensor& y, const Tensor& gate);
void gate_add_bwd(const Tensor& dy, const Tensor& d_gate, const Tensor& dx, const Tensor& y,
                  const Tensor& gate);
void layer_norm(const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight,
                const Tensor& bias);
void layer_norm_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& stats,
                    const Tensor& weight);
void rms_norm(const Tensor& y, const Tensor& x, const Tensor& weight);
void group_norm(const Tensor& y, const Tensor& x, const Tensor& weight, const Tensor& bias,
                int64_t groups);

void qk_norm_rope(const Tensor& q, const Tensor& k, const Tensor& qkv, const Tensor& q_weight,
                  const Tensor& k_weight, const Tensor& pe, int64_t heads);
void attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
               const Tensor& v, const AttentionOptions& options);
void attention_bwd(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& d_out,
                   const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                   const Tensor& v, const AttentionOptions& options);

void dropout(const Tensor& x, const DropoutOptions& options);
void dora_gain(const Tensor& gain, const Tensor& scaled_b, const Tensor& magnitude,
               const RowNorms& norms);
void dora_scale(const Tensor& y, const Tensor& bias, const DoraScale& dora);
void dora_scale_bwd(const Tensor& dy, const Tensor& d_magnitude, const Tensor& y,
                    const Tensor& bias, const DoraScale& dora);

void embed(const Tensor& y, const Tensor& ids, const Tensor& table);
void timestep_embed(const Tensor& y, const Tensor& t);
void conv2d(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias,
            const ConvOptions& options);
void upsample2x(const Tensor& y, const Tensor& x);

void flow_interpolate(const Tensor& x_t, const Tensor& x0, const Tensor& noise, const Tensor& t);
void flow_loss(const Tensor& loss, const Tensor& d_pred, const Tensor& pred, const Tensor& x0,
               const Tensor& noise, const Tensor& weight, const Tensor& mask);
void global_norm(const Tensor& norm, const Tensor& g);
/// An update: flat tensors of equal sizes and dtypes, the gradients' norm, `numbers` scalars.
void update(const char* op, std::initializer_list<Tensor> flat, const Tensor& norm,
            const Tensor& scalars, int64_t numbers);
void adamw8bit_step(const Tensor& p, const Moments8& moments, const Tensor& g, const Tensor& norm,
                    const Tensor& scalars);
void adafactor_step(const Tensor& p, const Tensor& row, const Tensor& column, const Tensor& g,
                    const Tensor& norm, const Tensor& scalars);

}  // namespace fluxlora::checks
