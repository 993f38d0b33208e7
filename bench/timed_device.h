// SPDX-License-Identifier: Apache-2.0
// A device whose operations are timed, and held against what ops/paper.h says of them.
#pragma once

#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "ops/paper.h"
#include "stopwatch.h"

namespace fluxlora::bench {

/// Forwards everything to `device`. While `recording`, each operation is timed, and its work noted
/// by a paper device of these rates.
class TimedDevice final : public Device {
 public:
  TimedDevice(Device& device, const Rates& rates)
      : device_(device), paper_(rates), watch_(make_stopwatch(device)), ops_(*this) {}

  struct Time {
    int64_t calls = 0;
    double seconds = 0;   ///< measured
    double at_rates = 0;  ///< what the work would take at the measured rates of its family
  };
  /// Sums of the operations since the last call, by family and by operation.
  struct Times {
    std::map<std::string, Time> families, operations;
  };
  Times take();
  bool recording = false;

  Ops& ops() override { return ops_; }
  std::string name() const override { return device_.name(); }
  bool is_host() const override { return device_.is_host(); }
  MemoryInfo memory() const override { return device_.memory(); }
  Buffer allocate(int64_t bytes) override { return device_.allocate(bytes); }
  void upload(const Tensor& to, const void* host) override { device_.upload(to, host); }
  void download(void* host, const Tensor& from) override { device_.download(host, from); }
  void synchronize() override { device_.synchronize(); }
  Buffer allocate_pinned(int64_t bytes) override { return device_.allocate_pinned(bytes); }
  void copy_aside(int lane, const Tensor& to, const void* pinned) override {
    device_.copy_aside(lane, to, pinned);
  }
  void join(int lane) override { device_.join(lane); }

 private:
  /// Every operation of ops/ops.h, by the same name.
  class TimedOps final : public Ops {
   public:
    explicit TimedOps(TimedDevice& owner) : owner_(owner) {}

    using T = const Tensor&;
    // clang-format off
    void copy(T y, T x) override { time("copy", &Ops::copy, y, x); }
    void fill(T y, double value) override { time("fill", &Ops::fill, y, value); }
    void cast(T y, T x) override { time("cast", &Ops::cast, y, x); }
    void add_scaled(T y, T x, double a) override { time("add_scaled", &Ops::add_scaled, y, x, a); }
    void quantise(const Weight& w, T x) override { time("quantise", &Ops::quantise, w, x); }
    void linear(T y, T x, const Weight& w, T b, Grad m) override { time("linear", &Ops::linear, y, x, w, b, m); }
    void linear_dx(T dx, T dy, const Weight& w, Grad m) override { time("linear_dx", &Ops::linear_dx, dx, dy, w, m); }
    void dense(T y, T x, T a, const Scale& s, Grad m) override { time("dense", &Ops::dense, y, x, a, s, m); }
    void dense_dx(T dx, T dy, T a, const Scale& s, Grad m) override { time("dense_dx", &Ops::dense_dx, dx, dy, a, s, m); }
    void dense_dw(T da, T dy, T x, const Scale& s, Grad m) override { time("dense_dw", &Ops::dense_dw, da, dy, x, s, m); }
    void dropout(T x, const DropoutOptions& o) override { time("dropout", &Ops::dropout, x, o); }
    void dora_gain(T gain, T scaled_b, T magnitude, const RowNorms& n) override { time("dora_gain", &Ops::dora_gain, gain, scaled_b, magnitude, n); }
    void dora_scale(T y, T b, const DoraScale& d) override { time("dora_scale", &Ops::dora_scale, y, b, d); }
    void dora_scale_bwd(T dy, T d_magnitude, T y, T b, const DoraScale& d) override { time("dora_scale_bwd", &Ops::dora_scale_bwd, dy, d_magnitude, y, b, d); }
    void ln_modulate(T h, T stats, T x, T shift, T scale) override { time("ln_modulate", &Ops::ln_modulate, h, stats, x, shift, scale); }
    void ln_modulate_bwd(T dx, T d_shift, T d_scale, T dh, T x, T stats, T scale, Grad m) override { time("ln_modulate_bwd", &Ops::ln_modulate_bwd, dx, d_shift, d_scale, dh, x, stats, scale, m); }
    void gate_add(T x_out, T x, T y, T gate) override { time("gate_add", &Ops::gate_add, x_out, x, y, gate); }
    void gate_add_bwd(T dy, T d_gate, T dx, T y, T gate) override { time("gate_add_bwd", &Ops::gate_add_bwd, dy, d_gate, dx, y, gate); }
    void gate_add_ln_modulate(T x_out, T h, T stats, T x, T y, T gate, T shift, T scale) override { time("gate_add_ln_modulate", &Ops::gate_add_ln_modulate, x_out, h, stats, x, y, gate, shift, scale); }
    void gate_add_ln_modulate_bwd(T dx, T dy, T d_gate, T d_shift, T d_scale, T dh, T x_out, T stats, T scale, T y, T gate) override { time("gate_add_ln_modulate_bwd", &Ops::gate_add_ln_modulate_bwd, dx, dy, d_gate, d_shift, d_scale, dh, x_out, stats, scale, y, gate); }
    void layer_norm(T y, T stats, T x, T w, T b, double eps) override { time("layer_norm", &Ops::layer_norm, y, stats, x, w, b, eps); }
    void layer_norm_bwd(T dx, T dy, T x, T stats, T w, Grad m) override { time("layer_norm_bwd", &Ops::layer_norm_bwd, dx, dy, x, stats, w, m); }
    void rms_norm(T y, T x, T w, double eps) override { time("rms_norm", &Ops::rms_norm, y, x, w, eps); }
    void group_norm(T y, T x, T w, T b, int64_t groups, double eps, bool silu) override { time("group_norm", &Ops::group_norm, y, x, w, b, groups, eps, silu); }
    void qk_norm_rope(T q, T k, T qkv, T qw, T kw, T pe, int64_t heads) override { time("qk_norm_rope", &Ops::qk_norm_rope, q, k, qkv, qw, kw, pe, heads); }
    void qk_norm_rope_bwd(T d_qkv, T dq, T dk, T qkv, T qw, T kw, T pe, int64_t heads) override { time("qk_norm_rope_bwd", &Ops::qk_norm_rope_bwd, d_qkv, dq, dk, qkv, qw, kw, pe, heads); }
    void attention(T out, T lse, T q, T k, T v, const AttentionOptions& o) override { time("attention", &Ops::attention, out, lse, q, k, v, o); }
    void attention_bwd(T dq, T dk, T dv, T d_out, T out, T lse, T q, T k, T v, const AttentionOptions& o) override { time("attention_bwd", &Ops::attention_bwd, dq, dk, dv, d_out, out, lse, q, k, v, o); }
    void gelu_tanh(T y, T x) override { time("gelu_tanh", &Ops::gelu_tanh, y, x); }
    void gelu_tanh_bwd(T dx, T dy, T x) override { time("gelu_tanh_bwd", &Ops::gelu_tanh_bwd, dx, dy, x); }
    void silu(T y, T x) override { time("silu", &Ops::silu, y, x); }
    void silu_bwd(T dx, T dy, T x, Grad m) override { time("silu_bwd", &Ops::silu_bwd, dx, dy, x, m); }
    void quick_gelu(T y, T x) override { time("quick_gelu", &Ops::quick_gelu, y, x); }
    void quick_gelu_bwd(T dx, T dy, T x) override { time("quick_gelu_bwd", &Ops::quick_gelu_bwd, dx, dy, x); }
    void gelu_gate(T y, T gate, T up) override { time("gelu_gate", &Ops::gelu_gate, y, gate, up); }
    void embed(T y, T ids, T table) override { time("embed", &Ops::embed, y, ids, table); }
    void timestep_embed(T y, T t) override { time("timestep_embed", &Ops::timestep_embed, y, t); }
    void conv2d(T y, T x, T w, T b, const ConvOptions& o) override { time("conv2d", &Ops::conv2d, y, x, w, b, o); }
    void upsample2x(T y, T x) override { time("upsample2x", &Ops::upsample2x, y, x); }
    void flow_interpolate(T x_t, T x0, T noise, T t) override { time("flow_interpolate", &Ops::flow_interpolate, x_t, x0, noise, t); }
    void flow_loss(T loss, T d_pred, T pred, T x0, T noise, T w, T mask, const Penalty& p) override { time("flow_loss", &Ops::flow_loss, loss, d_pred, pred, x0, noise, w, mask, p); }
    void global_norm(T norm, T g) override { time("global_norm", &Ops::global_norm, norm, g); }
    void adamw_step(T p, T m, T v, T g, T norm, T s, const AdamWOptions& o) override { time("adamw_step", &Ops::adamw_step, p, m, v, g, norm, s, o); }
    void lion_step(T p, T m, T g, T norm, T s, const LionOptions& o) override { time("lion_step", &Ops::lion_step, p, m, g, norm, s, o); }
    void adamw8bit_step(T p, const Moments8& m, T g, T norm, T s, const AdamWOptions& o) override { time("adamw8bit_step", &Ops::adamw8bit_step, p, m, g, norm, s, o); }
    void schedule_free_step(T y, T z, T v, T g, T norm, T s, const ScheduleFreeOptions& o) override { time("schedule_free_step", &Ops::schedule_free_step, y, z, v, g, norm, s, o); }
    void prodigy_moments(T sums, T p, const ProdigyState& st, T g, T norm, T s, const ProdigyOptions& o) override { time("prodigy_moments", &Ops::prodigy_moments, sums, p, st, g, norm, s, o); }
    void prodigy_step(T p, const ProdigyState& st, T s, const ProdigyOptions& o) override { time("prodigy_step", &Ops::prodigy_step, p, st, s, o); }
    void adafactor_step(T p, T row, T column, T g, T norm, T s, const AdafactorOptions& o) override { time("adafactor_step", &Ops::adafactor_step, p, row, column, g, norm, s, o); }
    // clang-format on

   private:
    template <typename Operation, typename... Args>
    void time(const char* name, Operation operation, const Args&... args) {
      owner_.time(name, [&](Ops& op) { (op.*operation)(args...); });
    }
    TimedDevice& owner_;
  };

  struct Call {
    const char* operation;
    Work family;
    double at_rates;
  };

  template <typename Run>
  void time(const char* operation, const Run& run) {
    if (!recording) return run(device_.ops());
    if (calls_.empty()) watch_->mark();
    run(device_.ops());
    watch_->mark();
    run(paper_.ops());
    const auto seconds = paper_.take_seconds();
    const auto family = std::max_element(seconds.begin(), seconds.end()) - seconds.begin();
    calls_.push_back({operation, static_cast<Work>(family),
                      std::accumulate(seconds.begin(), seconds.end(), 0.0)});
  }

  Device& device_;
  PaperDevice paper_;
  std::unique_ptr<Stopwatch> watch_;
  std::vector<Call> calls_;
  TimedOps ops_;
};

inline TimedDevice::Times TimedDevice::take() {
  const std::vector<double> seconds = watch_->take();
  Times times;
  for (size_t i = 0; i < calls_.size(); ++i)
    for (Time* time :
         {&times.families[word_for(calls_[i].family)], &times.operations[calls_[i].operation]}) {
      ++time->calls;
      time->seconds += seconds[i];
      time->at_rates += calls_[i].at_rates;
    }
  calls_.clear();
  return times;
}

}  // namespace fluxlora::bench
