// SPDX-License-Identifier: Apache-2.0
#include "ops/checks.h"

#include <string>

#include "base/error.h"

namespace fluxlora::checks {
namespace {

std::string say(const char* op, const char* what, const Tensor& a, const Tensor& b) {
  return std::string(op) + ": " + what + ": " + a.describe() + " and " + b.describe();
}

/// The dtype of statistics, losses, tables and trained parameters beside activations `x`.
void stats_dtype(const char* op, const Tensor& stat, const Tensor& x) {
  CHECK(stat.dtype() == (x.dtype() == DType::f64 ? DType::f64 : DType::f32),
        say(op, "dtypes", stat, x));
}

/// Equal sizes but for the last dimension.
void same_rows(const char* op, const Tensor& a, const Tensor& b) {
  CHECK(a.rank() == b.rank() && a.rank() >= 2 && a.rank() <= 3, say(op, "ranks", a, b));
  for (int i = 0; i + 1 < a.rank(); ++i) CHECK(a.dim(i) == b.dim(i), say(op, "rows", a, b));
}

/// v (n) contiguous.
void vector(const char* op, const Tensor& v, int64_t n) {
  CHECK(v.rank() == 1 && v.dim(0) == n, std::string(op) + ": vector " + v.describe());
}

void vector_like(const char* op, const Tensor& v, const Tensor& x) {
  vector(op, v, x.dim(-1));
  CHECK(v.dtype() == x.dtype(), say(op, "dtypes", v, x));
}

/// m (B, D) beside x (B, T, D).
void modulation(const char* op, const Tensor& m, const Tensor& x) {
  CHECK(x.rank() == 3 && m.rank() == 2 && m.dim(0) == x.dim(0) && m.dim(1) == x.dim(2),
        say(op, "modulation", m, x));
  CHECK(m.dtype() == x.dtype(), say(op, "dtypes", m, x));
}

void statistics(const char* op, const Tensor& stats, const Tensor& x) {
  same_rows(op, stats, x);
  CHECK(stats.dim(-1) == 2, say(op, "statistics", stats, x));
  stats_dtype(op, stats, x);
}

/// x as y is, but in the dtype of statistics.
void same_shape(const char* op, const Tensor& x, const Tensor& y) {
  CHECK(x.same_shape(y), say(op, "shapes", x, y));
  stats_dtype(op, x, y);
}

/// One number a batch item.
void per_item(const char* op, const Tensor& v, const Tensor& x) {
  CHECK(v.rank() == 1 && v.dim(0) == x.dim(0), say(op, "items", v, x));
}

void storage(const char* op, const Weight& w) {
  for_storage(
      w.format, w.out(), w.in(),
      [&](Tensor Weight::* field, DType dtype, std::initializer_list<int64_t> shape) {
        const Tensor& part = w.*field;
        CHECK(part && part.dtype() == dtype && part.contiguous() &&
                  part.same_shape(Tensor(dtype, shape, part.data())),
              std::string(op) + ": weight " + w.values.describe() + " with " + part.describe());
      });
}

}  // namespace

void same(const char* op, const Tensor& y, const Tensor& x) {
  CHECK(y.same_shape(x), say(op, "shapes", y, x));
  CHECK(y.dtype() == x.dtype(), say(op, "dtypes", y, x));
}

void cast(const Tensor& y, const Tensor& x) {
  CHECK(y.same_shape(x) && y.contiguous() && x.contiguous(), say("cast", "shapes", y, x));
}

void quantise(const Weight& w, const Tensor& x) {
  CHECK(w && is_quantised(w.format), "quantise: weight " + w.values.describe());
  storage("quantise", w);
  CHECK(x.rank() == 2 && x.dim(0) == w.out() && x.dim(1) == w.in() && x.contiguous(),
        say("quantise", "shapes", w.values, x));
}

void linear(const Tensor& y, const Tensor& x, const Weight& w, const Tensor& bias) {
  same_rows("linear", y, x);
  CHECK(y.dtype() == x.dtype(), say("linear", "dtypes", y, x));
  CHECK(w && w.values.rank() == 2, "linear: weight " + w.values.describe());
  if (is_quantised(w.format)) storage("linear", w);
  CHECK(y.dim(-1) == w.out() && x.dim(-1) == w.in(),
        say("linear", "widths", y, x) + " with weight " + w.values.describe());
  if (bias) vector("linear", bias, w.out());
}

void dense(const char* op, const Tensor& y, const Tensor& x, const Tensor& a) {
  same_rows(op, y, x);
  CHECK(y.dtype() == x.dtype(), say(op, "dtypes", y, x));
  if (a.dtype() != x.dtype()) stats_dtype(op, a, x);
  CHECK(a.rank() == 2 && y.dim(-1) == a.dim(0) && x.dim(-1) == a.dim(1),
        say(op, "widths", y, x) + " with " + a.describe());
}

void ln_modulate(const Tensor& h, const Tensor& stats, const Tensor& x, const Tensor& shift,
                 const Tensor& scale) {
  same("ln_modulate", h, x);
  statistics("ln_modulate", stats, x);
  modulation("ln_modulate", shift, x);
  modulation("ln_modulate", scale, x);
}

void ln_modulate_bwd(const Tensor& dx, const Tensor& d_shift, const Tensor& d_scale,
                     const Tensor& dh, const Tensor& x, const Tensor& stats, const Tensor& scale) {
  const char* const op = "ln_modulate_bwd";
  if (dx) same(op, dx, x);
  same(op, dh, x);
  statistics(op, stats, x);
  modulation(op, scale, x);
  if (d_shift) modulation(op, d_shift, x);
  if (d_scale) modulation(op, d_scale, x);
}

void gate_add(const Tensor& x_out, const Tensor& x, const Tensor& y, const Tensor& gate) {
  same("gate_add", x_out, x);
  same("gate_add", x_out, y);
  modulation("gate_add", gate, x);
}

void gate_add_bwd(const Tensor& dy, const Tensor& d_gate, const Tensor& dx, const Tensor& y,
                  const Tensor& gate) {
  same("gate_add_bwd", dy, dx);
  modulation("gate_add_bwd", gate, dx);
  if (!d_gate) return;
  same("gate_add_bwd", y, dx);
  modulation("gate_add_bwd", d_gate, dx);
}

void layer_norm(const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight,
                const Tensor& bias) {
  same("layer_norm", y, x);
  if (stats) statistics("layer_norm", stats, x);
  vector_like("layer_norm", weight, x);
  vector_like("layer_norm", bias, x);
}

void layer_norm_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& stats,
                    const Tensor& weight) {
  same("layer_norm_bwd", dx, x);
  same("layer_norm_bwd", dy, x);
  statistics("layer_norm_bwd", stats, x);
  vector_like("layer_norm_bwd", weight, x);
}

void rms_norm(const Tensor& y, const Tensor& x, const Tensor& weight) {
  same("rms_norm", y, x);
  vector_like("rms_norm", weight, x);
}

void group_norm(const Tensor& y, const Tensor& x, const Tensor& weight, const Tensor& bias,
                int64_t groups) {
  same("group_norm", y, x);
  CHECK(x.rank() == 3 && groups >= 1 && x.dim(2) % groups == 0,
        "group_norm: groups of " + x.describe());
  vector_like("group_norm", weight, x);
  vector_like("group_norm", bias, x);
}

void qk_norm_rope(const Tensor& q, const Tensor& k, const Tensor& qkv, const Tensor& q_weight,
                  const Tensor& k_weight, const Tensor& pe, int64_t heads) {
  const char* const op = "qk_norm_rope";
  same(op, q, k);
  same_rows(op, q, qkv);
  CHECK(q.dtype() == qkv.dtype(), say(op, "dtypes", q, qkv));
  const int64_t width = q.dim(-1) / heads;
  CHECK(
      q.rank() == 3 && width * heads == q.dim(-1) && width % 2 == 0 && qkv.dim(-1) >= 2 * q.dim(-1),
      say(op, "widths", q, qkv));
  CHECK(pe.rank() == 3 && pe.dim(0) == q.dim(1) && pe.dim(1) == width / 2 && pe.dim(2) == 2 &&
            pe.contiguous(),
        say(op, "positions", pe, q));
  stats_dtype(op, pe, q);
  vector(op, q_weight, width);
  vector(op, k_weight, width);
  CHECK(q_weight.dtype() == q.dtype() && k_weight.dtype() == q.dtype(),
        say(op, "dtypes", q_weight, q));
}

void attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
               const Tensor& v, const AttentionOptions& options) {
  const char* const op = "attention";
  CHECK(q.rank() == 3 && options.heads >= 1 && q.dim(2) % options.heads == 0,
        std::string(op) + ": heads of " + q.describe());
  same(op, out, q);
  same(op, k, q);
  same(op, v, q);
  if (lse) {
    CHECK(lse.rank() == 3 && lse.dim(0) == q.dim(0) && lse.dim(1) == options.heads &&
              lse.dim(2) == q.dim(1),
          say(op, "lse", lse, q));
    stats_dtype(op, lse, q);
  }
  if (!options.bias) return;
  const Tensor& bias = options.bias;
  CHECK(bias.rank() == 3 && bias.dim(0) == options.heads && bias.dim(1) == q.dim(1) &&
            bias.dim(2) == q.dim(1) && bias.dtype() == q.dtype(),
        say(op, "bias", bias, q));
}

void attention_bwd(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& d_out,
                   const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                   const Tensor& v, const AttentionOptions& options) {
  CHECK(lse, "attention_bwd: needs lse");
  attention(out, lse, q, k, v, options);
  attention(d_out, lse, dq, dk, dv, options);
  same("attention_bwd", d_out, out);
}

void dropout(const Tensor& x, const DropoutOptions& options) {
  CHECK(x.rank() >= 2 && x.rank() <= 3 && options.rate >= 0 && options.rate < 1,
        "dropout: " + x.describe());
  CHECK(options.draw.dtype() == DType::i32 && options.draw.size() == 5,
        "dropout: draw " + options.draw.describe());
}

void dora_gain(const Tensor& gain, const Tensor& scaled_b, const Tensor& magnitude,
               const RowNorms& norms) {
  const char* const op = "dora_gain";
  const Tensor& B = norms.B;
  CHECK(B.rank() == 2, std::string(op) + ": " + B.describe());
  same(op, scaled_b, B);
  same(op, norms.second, B);
  CHECK(norms.cross.rank() == 2 && norms.cross.dim(0) == B.dim(1) &&
            norms.cross.dim(1) == B.dim(0) && norms.cross.dtype() == B.dtype(),
        say(op, "cross", norms.cross, B));
  for (const Tensor& v : {gain, magnitude, norms.square}) {
    vector(op, v, B.dim(0));
    stats_dtype(op, v, B);
  }
}

void dora_scale(const Tensor& y, const Tensor& bias, const DoraScale& dora) {
  const char* const op = "dora_scale";
  CHECK(y.rank() >= 2 && y.rank() <= 3, std::string(op) + ": " + y.describe());
  if (bias) vector_like(op, bias, y);
  for (const Tensor& v : {dora.gain, dora.magnitude}) {
    vector(op, v, y.dim(-1));
    stats_dtype(op, v, y);
  }
  CHECK(dora.multiplier.dtype() == DType::f32 && dora.multiplier.size() == 1,
        std::string(op) + ": multiplier " + dora.multiplier.describe());
}

void dora_scale_bwd(const Tensor& dy, const Tensor& d_magnitude, const Tensor& y,
                    const Tensor& bias, const DoraScale& dora) {
  const char* const op = "dora_scale_bwd";
  dora_scale(dy, bias, dora);
  if (!d_magnitude) return;
  same(op, y, dy);
  vector(op, d_magnitude, dy.dim(-1));
  stats_dtype(op, d_magnitude, dy);
}

void embed(const Tensor& y, const Tensor& ids, const Tensor& table) {
  CHECK(ids.rank() == 2 && y.rank() == 3 && ids.dtype() == DType::i32 && y.dim(0) == ids.dim(0) &&
            y.dim(1) == ids.dim(1),
        say("embed", "ids", ids, y));
  CHECK(table.rank() == 2 && table.dim(1) == y.dim(2), say("embed", "table", table, y));
}

void timestep_embed(const Tensor& y, const Tensor& t) {
  CHECK(y.rank() == 2 && y.dim(1) % 2 == 0, "timestep_embed: " + y.describe());
  per_item("timestep_embed", t, y);
  CHECK(t.dtype() == DType::f32 || t.dtype() == DType::f64, "timestep_embed: " + t.describe());
}

void conv2d(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias,
            const ConvOptions& options) {
  const char* const op = "conv2d";
  CHECK(x.rank() == 4 && y.rank() == 4 && w.rank() == 4, say(op, "ranks", y, x));
  CHECK(x.contiguous() && y.contiguous() && w.contiguous(), say(op, "strides", y, x));
  CHECK(x.dtype() == y.dtype() && w.dtype() == x.dtype(), say(op, "dtypes", w, x));
  CHECK(y.dim(0) == x.dim(0) && y.dim(3) == w.dim(0) && x.dim(3) == w.dim(3),
        say(op, "channels", w, x));
  const int64_t pad = options.pad_before + options.pad_after;
  CHECK(options.stride >= 1 && options.pad_before >= 0 && options.pad_after >= 0,
        "conv2d: padding");
  CHECK(y.dim(1) == (x.dim(1) + pad - w.dim(1)) / options.stride + 1 &&
            y.dim(2) == (x.dim(2) + pad - w.dim(2)) / options.stride + 1,
        say(op, "sizes", y, x));
  if (bias) vector_like(op, bias, y);
}

void upsample2x(const Tensor& y, const Tensor& x) {
  CHECK(x.rank() == 4 && y.rank() == 4 && x.contiguous() && y.contiguous() &&
            y.dtype() == x.dtype() && y.dim(0) == x.dim(0) && y.dim(1) == 2 * x.dim(1) &&
            y.dim(2) == 2 * x.dim(2) && y.dim(3) == x.dim(3),
        say("upsample2x", "sizes", y, x));
}

void flow_interpolate(const Tensor& x_t, const Tensor& x0, const Tensor& noise, const Tensor& t) {
  CHECK(x_t.rank() == 3, "flow_interpolate: " + x_t.describe());
  same_shape("flow_interpolate", x0, x_t);
  same_shape("flow_interpolate", noise, x_t);
  per_item("flow_interpolate", t, x_t);
  stats_dtype("flow_interpolate", t, x_t);
}

void flow_loss(const Tensor& loss, const Tensor& d_pred, const Tensor& pred, const Tensor& x0,
               const Tensor& noise, const Tensor& weight, const Tensor& mask) {
  const char* const op = "flow_loss";
  CHECK(pred.rank() == 3, "flow_loss: " + pred.describe());
  same_shape(op, x0, pred);
  same_shape(op, noise, pred);
  per_item(op, loss, pred);
  stats_dtype(op, loss, pred);
  if (mask) {
    same_rows(op, mask, pred);
    CHECK(pred.dim(2) % mask.dim(2) == 0, say(op, "mask", mask, pred));
    stats_dtype(op, mask, pred);
  }
  if (!d_pred) return;
  same(op, d_pred, pred);
  per_item(op, weight, pred);
  stats_dtype(op, weight, pred);
}

void global_norm(const Tensor& norm, const Tensor& g) {
  CHECK(norm.size() == 1 && g.contiguous(), say("global_norm", "shapes", norm, g));
}

void update(const char* op, std::initializer_list<Tensor> flat, const Tensor& norm,
            const Tensor& scalars, int64_t numbers) {
  for (const Tensor& x : flat) {
    same(op, x, *flat.begin());
    CHECK(x.contiguous(), std::string(op) + ": flat buffers");
  }
  CHECK(norm.size() == 1 && scalars.rank() == 1 && scalars.dim(0) == numbers,
        say(op, "scalars", norm, scalars));
}

void adamw8bit_step(const Tensor& p, const Moments8& moments, const Tensor& g, const Tensor& norm,
                    const Tensor& scalars) {
  const char* const op = "adamw8bit_step";
  update(op, {p, g}, norm, scalars, 3);
  const int64_t blocks = (p.size() + kMomentBlock - 1) / kMomentBlock;
  for (const Tensor& codes : {moments.m, moments.v})
    CHECK(codes.dtype() == DType::u8 && codes.contiguous() && codes.size() == p.size(),
          say(op, "codes", codes, p));
  for (const Tensor& scale : {moments.m_scale, moments.v_scale})
    CHECK(scale.dtype() == p.dtype() && scale.contiguous() && scale.size() == blocks,
          say(op, "scales", scale, p));
  CHECK(moments.codes.dtype() == p.dtype() && moments.codes.contiguous() &&
            moments.codes.size() == 512,
        say(op, "meanings", moments.codes, p));
}

void adafactor_step(const Tensor& p, const Tensor& row, const Tensor& column, const Tensor& g,
                    const Tensor& norm, const Tensor& scalars) {
  const char* const op = "adafactor_step";
  update(op, {p, g}, norm, scalars, 2);
  CHECK(p.rank() == 2 && row.size() == p.dim(0) && column.size() == p.dim(1) &&
            row.dtype() == p.dtype() && column.dtype() == p.dtype() && row.contiguous() &&
            column.contiguous(),
        say(op, "factors", row, column));
}

}  // namespace fluxlora::checks
