// SPDX-License-Identifier: Apache-2.0
// Embedders.   Dims: docs/notation.md
#include "model/flux/embed.h"

#include <cmath>

#include "base/error.h"

namespace fluxlora::flux {
namespace {

void mlp_forward(Ops& op, const MlpEmbedder& w, const Tensor& x, MlpSaved& s) {
  adapted_linear(op, s.u, s.in_t, x, w.in_layer);  // (B, D)
  op.silu(s.a, s.u);
  adapted_linear(op, s.y, s.out_t, s.a, w.out_layer);  // (B, D)
}

void mlp_backward(Ops& op, const Sizes& z, const MlpEmbedder& w, const Tensor& dx, const Tensor& x,
                  const MlpSaved& s, const EmbedGrads& d, const Scratch& scratch) {
  const bool behind = dx || w.in_layer.trains();
  if (!behind && !w.out_layer.trains()) return;
  adapted_linear_bwd(op, behind ? d.d_mlp : Tensor{}, Grad::overwrite,
                     scratch.dt(z.B, 0, w.out_layer.kept_columns()), d.d_vec,
                     {s.y, s.out_t, s.a, &w.out_layer});
  if (!behind) return;
  op.silu_bwd(d.d_mlp, d.d_mlp, s.u, Grad::overwrite);
  adapted_linear_bwd(op, dx, Grad::overwrite, scratch.dt(z.B, 0, w.in_layer.kept_columns()),
                     d.d_mlp, {s.u, s.in_t, x, &w.in_layer});
}

}  // namespace

void forward(Ops& op, const Sizes& z, const Weights& w, const Inputs& in, EmbedSaved& s) {
  op.timestep_embed(s.time.x, in.t);
  mlp_forward(op, w.time_in, s.time.x, s.time);
  op.copy(s.vec, s.time.y);
  if (w.guidance_in.in_layer.weight) {
    op.timestep_embed(s.guidance.x, in.guidance);
    mlp_forward(op, w.guidance_in, s.guidance.x, s.guidance);
    op.add_scaled(s.vec, s.guidance.y, 1);
  }
  mlp_forward(op, w.vector_in, in.pooled, s.vector);
  op.add_scaled(s.vec, s.vector.y, 1);
  op.silu(s.silu_vec, s.vec);
  adapted_linear(op, z.of(img, s.x), s.img_t, in.img, w.img_in);
  adapted_linear(op, z.of(txt, s.x), s.txt_t, in.txt, w.txt_in);
}

void backward(Ops& op, const Sizes& z, const Weights& w, const Inputs& in, const EmbedSaved& s,
              const EmbedGrads& d, const Scratch& scratch) {
  adapted_linear_bwd(op, {}, Grad::ignore, scratch.dt(z.B, z.M, w.txt_in.kept_columns()),
                     z.of(txt, d.dx), {{}, s.txt_t, in.txt, &w.txt_in});
  adapted_linear_bwd(op, {}, Grad::ignore, scratch.dt(z.B, z.N(), w.img_in.kept_columns()),
                     z.of(img, d.dx), {{}, s.img_t, in.img, &w.img_in});
  if (!d.d_silu_vec) return;
  op.silu_bwd(d.d_vec, d.d_silu_vec, s.vec, Grad::overwrite);
  mlp_backward(op, z, w.vector_in, d.d_pooled, in.pooled, s.vector, d, scratch);
  if (w.guidance_in.in_layer.weight)
    mlp_backward(op, z, w.guidance_in, {}, s.guidance.x, s.guidance, d, scratch);
  mlp_backward(op, z, w.time_in, {}, s.time.x, s.time, d, scratch);
}

void fill_rotary_table(const Tensor& table, const Sizes& z, const Config& config) {
  CHECK(table.dim(0) == z.S() && table.dim(1) == z.K / 2, "rotary table: " + table.describe());
  for (int64_t token = 0; token < z.S(); ++token) {
    const int64_t i = token - z.M;
    const double position[3] = {0, i < 0 ? 0.0 : static_cast<double>(i / z.columns),
                                i < 0 ? 0.0 : static_cast<double>(i % z.columns)};
    int64_t pair = 0;
    for (size_t axis = 0; axis < 3; ++axis) {
      for (int64_t j = 0; j < config.axes_dim[axis] / 2; ++j, ++pair) {
        const double exponent =
            -2.0 * static_cast<double>(j) / static_cast<double>(config.axes_dim[axis]);
        const double angle = position[axis] * std::pow(config.theta, exponent);
        const int64_t at = (token * (z.K / 2) + pair) * 2;
        const double values[2] = {std::cos(angle), std::sin(angle)};
        for (int64_t k = 0; k < 2; ++k) {
          if (table.dtype() == DType::f64)
            table.as<double>()[at + k] = values[k];
          else
            table.as<float>()[at + k] = static_cast<float>(values[k]);
        }
      }
    }
  }
}

}  // namespace fluxlora::flux
