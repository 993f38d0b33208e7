// SPDX-License-Identifier: Apache-2.0
#include "ops/paper.h"

#include <algorithm>
#include <initializer_list>
#include <numeric>
#include <utility>

namespace fluxlora {
namespace {

constexpr size_t kFamilies = static_cast<size_t>(Work::count);
/// Of products of 8-bit operands (backend/cuda/linear_codes.cpp): what one takes before its factors
/// are applied, and what its rows are a multiple of.
constexpr int64_t kCodeProduct = int64_t{32} << 20, kChunkStep = 32;
/// cuBLASLt's workspace (backend/cuda/products.cpp), and what unfolded pictures take at most
/// (backend/cuda/conv.cpp).
constexpr int64_t kProductWorkspace = int64_t{32} << 20;
constexpr int64_t kConvWorkspace = int64_t{128} << 20;
/// A launch that moves next to nothing takes this long.
constexpr double kLaunch = 3e-6;

char* const kNowhere = reinterpret_cast<char*>(256);

int64_t rows_of(const Tensor& t) {
  return t.size() / t.dim(-1);
}

}  // namespace

const char* word_for(Work family) {
  constexpr std::array<const char*, kFamilies> words{
      "frozen products", "adapters", "attention", "norms", "pointwise", "update", "other"};
  return words[static_cast<size_t>(family)];
}

class PaperDevice::PaperOps final : public Ops {
 public:
  explicit PaperOps(const Rates& rates) : rates_(rates) {}

  std::array<double, kFamilies> seconds{};
  int64_t operands = 0, unpacked = 0, scores = 0, unfolded = 0;

  // ---- memory
  void copy(const Tensor& y, const Tensor& x) override { move(Work::other, {y, x}); }
  void fill(const Tensor& y, double) override { move(Work::other, {y}); }
  void cast(const Tensor& y, const Tensor& x) override { move(Work::other, {y, x}); }
  void add_scaled(const Tensor& y, const Tensor& x, double) override {
    move(Work::other, {y, y, x});
  }
  void quantise(const Weight& w, const Tensor& x) override {
    move(Work::other, {w.values, w.scales, w.blocks, x});
  }

  // ---- products
  void linear(const Tensor& y, const Tensor& x, const Weight& w, const Tensor& bias,
              Grad mode) override {
    if (mode == Grad::ignore) return;
    const int64_t again = mode == Grad::accumulate ? y.bytes() : 0;
    product(w, rows_of(x), bytes({y, x, bias}) + again);
    codes(w, x, y);
  }
  void linear_dx(const Tensor& dx, const Tensor& dy, const Weight& w, Grad mode) override {
    if (mode == Grad::ignore) return;
    const int64_t again = mode == Grad::accumulate ? dx.bytes() : 0;
    product(w, rows_of(dy), bytes({dx, dy}) + again);
    if (!is_quantised(w.format)) return;
    // NF4 is turned round while it is unpacked.
    const int64_t turned = w.format == WeightFormat::nf4 ? 0 : w.in() * w.out();
    if (turned > 0) move_bytes(Work::products, 2 * turned);
    codes(w, dy, dx, turned + 4 * w.in());
  }
  void dense(const Tensor& y, const Tensor& x, const Tensor& a, const Scale&, Grad mode) override {
    trained(y, x, a, mode);
  }
  void dense_dx(const Tensor& dx, const Tensor& dy, const Tensor& a, const Scale&,
                Grad mode) override {
    trained(dx, dy, a, mode);
  }
  void dense_dw(const Tensor& da, const Tensor& dy, const Tensor& x, const Scale&,
                Grad mode) override {
    trained(da, dy, x, mode);
  }

  // ---- norms
  void ln_modulate(const Tensor& h, const Tensor& stats, const Tensor& x, const Tensor& shift,
                   const Tensor& scale) override {
    move(Work::norms, {h, stats, x, shift, scale});
  }
  void ln_modulate_bwd(const Tensor& dx, const Tensor& d_shift, const Tensor& d_scale,
                       const Tensor& dh, const Tensor& x, const Tensor& stats, const Tensor& scale,
                       Grad mode) override {
    move(Work::norms, {dx, d_shift, d_scale, dh, x, stats, scale});
    if (mode == Grad::accumulate) move(Work::norms, {dx});
  }
  void gate_add(const Tensor& x_out, const Tensor& x, const Tensor& y,
                const Tensor& gate) override {
    move(Work::norms, {x_out, x, y, gate});
  }
  void gate_add_bwd(const Tensor& dy, const Tensor& d_gate, const Tensor& dx, const Tensor& y,
                    const Tensor& gate) override {
    move(Work::norms, {dy, d_gate, dx, y, gate});
  }
  void gate_add_ln_modulate(const Tensor& x_out, const Tensor& h, const Tensor& stats,
                            const Tensor& x, const Tensor& y, const Tensor& gate,
                            const Tensor& shift, const Tensor& scale) override {
    move(Work::norms, {x_out, h, stats, x, y, gate, shift, scale});
  }
  void gate_add_ln_modulate_bwd(const Tensor& dx, const Tensor& dy, const Tensor& d_gate,
                                const Tensor& d_shift, const Tensor& d_scale, const Tensor& dh,
                                const Tensor& x_out, const Tensor& stats, const Tensor& scale,
                                const Tensor& y, const Tensor& gate) override {
    move(Work::norms, {dx, dx, dy, d_gate, d_shift, d_scale, dh, x_out, stats, scale, y, gate});
  }
  void layer_norm(const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight,
                  const Tensor& bias, double) override {
    move(Work::norms, {y, stats, x, weight, bias});
  }
  void layer_norm_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& stats,
                      const Tensor& weight, Grad) override {
    move(Work::norms, {dx, dy, x, stats, weight});
  }
  void rms_norm(const Tensor& y, const Tensor& x, const Tensor& weight, double) override {
    move(Work::norms, {y, x, weight});
  }
  void group_norm(const Tensor& y, const Tensor& x, const Tensor&, const Tensor&, int64_t, double,
                  bool) override {
    move(Work::norms, {y, x, x});
  }

  // ---- attention
  void qk_norm_rope(const Tensor& q, const Tensor& k, const Tensor&, const Tensor&, const Tensor&,
                    const Tensor& pe, int64_t) override {
    move(Work::norms, {q, k, q, k, pe});
  }
  void qk_norm_rope_bwd(const Tensor&, const Tensor& dq, const Tensor& dk, const Tensor&,
                        const Tensor&, const Tensor&, const Tensor& pe, int64_t) override {
    move(Work::norms, {dq, dk, dq, dk, dq, dk, pe});
  }
  void attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                 const Tensor& v, const AttentionOptions&) override {
    spend(Work::attention, attention_flop(q, k) / rates_.attention, bytes({out, lse, q, k, v}));
  }
  void attention_bwd(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& d_out,
                     const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                     const Tensor& v, const AttentionOptions& options) override {
    spend(Work::attention, 2.5 * attention_flop(q, k) / rates_.attention_backward,
          bytes({dq, dk, dv, d_out, out, lse, q, k, v}));
    // cuDNN adds dq up in f32; to add in the same order each time it keeps all scores in bf16
    // (before 9.25).
    const int64_t all = q.dim(0) * options.heads * q.dim(1) * k.dim(1) * 2;
    scores = std::max(scores, all + q.size() * 4 + lse.bytes());
  }

  // ---- pointwise
  void gelu_tanh(const Tensor& y, const Tensor& x) override { move(Work::pointwise, {y, x}); }
  void gelu_tanh_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x) override {
    move(Work::pointwise, {dx, dy, x});
  }
  void silu(const Tensor& y, const Tensor& x) override { move(Work::pointwise, {y, x}); }
  void silu_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x, Grad) override {
    move(Work::pointwise, {dx, dy, x});
  }
  void quick_gelu(const Tensor& y, const Tensor& x) override { move(Work::pointwise, {y, x}); }
  void quick_gelu_bwd(const Tensor& dx, const Tensor& dy, const Tensor& x) override {
    move(Work::pointwise, {dx, dy, x});
  }
  void gelu_gate(const Tensor& y, const Tensor& gate, const Tensor& up) override {
    move(Work::pointwise, {y, gate, up});
  }

  // ---- adapters
  void dropout(const Tensor& x, const DropoutOptions&) override { move(Work::adapters, {x, x}); }
  void dora_gain(const Tensor&, const Tensor& scaled_b, const Tensor&, const RowNorms& n) override {
    move(Work::adapters, {scaled_b, n.B, n.cross, n.second});
  }
  void dora_scale(const Tensor& y, const Tensor&, const DoraScale&) override {
    move(Work::adapters, {y, y});
  }
  void dora_scale_bwd(const Tensor& dy, const Tensor&, const Tensor& y, const Tensor&,
                      const DoraScale&) override {
    move(Work::adapters, {dy, dy, y});
  }

  // ---- embeddings, pictures
  void embed(const Tensor& y, const Tensor& ids, const Tensor&) override {
    move(Work::other, {y, y, ids});
  }
  void timestep_embed(const Tensor& y, const Tensor& t) override { move(Work::other, {y, t}); }
  void conv2d(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias,
              const ConvOptions&) override {
    const double flop = 2.0 * static_cast<double>(y.size()) * static_cast<double>(w.size()) /
                        static_cast<double>(w.dim(0));
    spend(Work::other, flop / rates_.product_bf16, bytes({y, x, w, bias}));
    unfolded = kConvWorkspace;
  }
  void upsample2x(const Tensor& y, const Tensor& x) override { move(Work::other, {y, x}); }

  // ---- flow
  void flow_interpolate(const Tensor& x_t, const Tensor& x0, const Tensor& noise,
                        const Tensor& t) override {
    move(Work::other, {x_t, x0, noise, t});
  }
  void flow_loss(const Tensor& loss, const Tensor& d_pred, const Tensor& pred, const Tensor& x0,
                 const Tensor& noise, const Tensor& weight, const Tensor& mask,
                 const Penalty&) override {
    move(Work::other, {loss, d_pred, pred, x0, noise, weight, mask});
  }

  // ---- update
  void global_norm(const Tensor&, const Tensor& g) override { move(Work::update, {g}); }
  void adamw_step(const Tensor& p, const Tensor& m, const Tensor& v, const Tensor& g, const Tensor&,
                  const Tensor&, const AdamWOptions&) override {
    move(Work::update, {p, p, m, m, v, v, g});
  }
  void lion_step(const Tensor& p, const Tensor& m, const Tensor& g, const Tensor&, const Tensor&,
                 const LionOptions&) override {
    move(Work::update, {p, p, m, m, g});
  }
  void adamw8bit_step(const Tensor& p, const Moments8& moments, const Tensor& g, const Tensor&,
                      const Tensor&, const AdamWOptions&) override {
    move(Work::update, {p, p, moments.m, moments.m, moments.v, moments.v, g});
  }
  void schedule_free_step(const Tensor& y, const Tensor& z, const Tensor& v, const Tensor& g,
                          const Tensor&, const Tensor&, const ScheduleFreeOptions&) override {
    move(Work::update, {y, y, z, z, v, v, g});
  }
  void prodigy_moments(const Tensor&, const Tensor& p, const ProdigyState& state, const Tensor& g,
                       const Tensor&, const Tensor&, const ProdigyOptions&) override {
    move(Work::update, {p, state.m, state.m, state.v, state.v, state.s, state.s, state.p0, g});
  }
  void prodigy_step(const Tensor& p, const ProdigyState& state, const Tensor&,
                    const ProdigyOptions&) override {
    move(Work::update, {p, p, state.m, state.v});
  }
  void adafactor_step(const Tensor& p, const Tensor&, const Tensor&, const Tensor& g, const Tensor&,
                      const Tensor&, const AdafactorOptions&) override {
    move(Work::update, {p, p, p, g, g});
  }

 private:
  static int64_t bytes(std::initializer_list<Tensor> tensors) {
    int64_t sum = 0;
    for (const Tensor& t : tensors)
      if (t) sum += t.size() * dtype_size(t.dtype());
    return sum;
  }
  void spend(Work family, double arithmetic, int64_t moved) {
    seconds[static_cast<size_t>(family)] +=
        std::max({arithmetic, static_cast<double>(moved) / rates_.memory, kLaunch});
  }
  void move_bytes(Work family, int64_t moved) { spend(family, 0, moved); }
  void move(Work family, std::initializer_list<Tensor> tensors) {
    move_bytes(family, bytes(tensors));
  }
  void product(const Weight& w, int64_t rows, int64_t moved) {
    const double flop = 2.0 * static_cast<double>(rows) * static_cast<double>(w.out()) *
                        static_cast<double>(w.in());
    const double rate = w.format == WeightFormat::int8 ? rates_.product_int8
                        : is_quantised(w.format)       ? rates_.product_fp8
                                                       : rates_.product_bf16;
    // NF4 is unpacked to fp8 first.
    const int64_t read = w.format == WeightFormat::nf4 ? w.out() * w.in() : w.values.bytes();
    spend(Work::products, flop / rate, moved + read);
    if (w.format != WeightFormat::nf4) return;
    move_bytes(Work::products, bytes({w.values, w.scales, w.blocks}) + read);
    unpacked = std::max(unpacked, read + 4 * w.out());
  }
  /// What a product of codes takes beside itself: x becomes codes, y may come without its factors
  /// first, in chunks of rows; an i32 product always does. `extra`: more work memory.
  void codes(const Weight& w, const Tensor& x, const Tensor& y, int64_t extra = 0) {
    if (!is_quantised(w.format)) return;
    const bool int8 = w.format == WeightFormat::int8;
    const int64_t rows = rows_of(x), row_bytes = y.dim(-1) * (int8 ? 4 : 2);
    move_bytes(Work::products, x.size() * (dtype_size(x.dtype()) + 1));
    if (int8) move_bytes(Work::products, 2 * rows * row_bytes);
    const int64_t most = std::max(kCodeProduct / row_bytes, kChunkStep);
    const int64_t chunks = (rows + most - 1) / most;
    operands = std::max(operands, (rows + chunks * kChunkStep) * x.dim(-1) + 4 * rows +
                                      (std::min(rows, most) + kChunkStep) * row_bytes + extra);
  }
  void trained(const Tensor& y, const Tensor& x, const Tensor& a, Grad mode) {
    if (mode == Grad::ignore) return;
    const int64_t again = mode == Grad::accumulate ? bytes({y}) : 0;
    spend(Work::adapters, 0, bytes({y, x, a}) + again);
  }
  /// Of the forward: q kᵀ and its product with v.
  static double attention_flop(const Tensor& q, const Tensor& k) {
    return 4.0 * static_cast<double>(q.size()) * static_cast<double>(k.dim(1));
  }

  Rates rates_;
};

PaperDevice::PaperDevice(const Rates& rates) : ops_(std::make_unique<PaperOps>(rates)) {}
PaperDevice::~PaperDevice() = default;

Ops& PaperDevice::ops() {
  return *ops_;
}

Buffer PaperDevice::count(int64_t bytes, size_t kind) {
  bytes_[kind] += bytes;
  return {kNowhere, bytes, [this, bytes, kind](void*) { bytes_[kind] -= bytes; }};
}

Buffer PaperDevice::allocate(int64_t bytes) {
  return count(bytes, 0);
}

Buffer PaperDevice::allocate_pinned(int64_t bytes) {
  return count(bytes, 1);
}

int64_t PaperDevice::work_bytes(bool backward) const {
  return kProductWorkspace + ops_->operands + ops_->unpacked + (backward ? ops_->scores : 0) +
         ops_->unfolded;
}

std::array<double, kFamilies> PaperDevice::take_seconds() {
  return std::exchange(ops_->seconds, {});
}

double PaperDevice::take_total() {
  const auto seconds = take_seconds();
  return std::accumulate(seconds.begin(), seconds.end(), 0.0);
}

}  // namespace fluxlora
