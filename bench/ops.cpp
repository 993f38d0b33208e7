// SPDX-License-Identifier: Apache-2.0
// Time of each operation at the sizes of a training step: the built-in model (B 4, S 128, D 160)
// and a width of 1,024 (B 1, S 512). Run: bench_ops --benchmark_filter=attention
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "backend/cpu/cpu_device.h"
#include "base/philox.h"
#include "tensor/buffer.h"

namespace fluxlora {
namespace {

struct Sizes {
  const char* name;
  int64_t B, S, D, H, F, R;
};
constexpr Sizes kTiny{"tiny", 4, 128, 160, 5, 640, 16}, kWide{"wide", 1, 512, 1024, 16, 4096, 16};

Device& device() {
  static const std::unique_ptr<Device> one = open_cpu_device();
  return *one;
}

Tensor random(std::initializer_list<int64_t> shape) {
  static std::vector<HostTensor> storage;
  static Philox philox(1, Draw::init);
  storage.emplace_back(DType::f32, shape);
  const Tensor x = storage.back().view;
  for (int64_t i = 0; i < x.size(); ++i) x.as<float>()[i] = static_cast<float>(philox.normal());
  return x;
}

void add(const std::string& name, double multiply_adds, std::function<void(Ops&)> run) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 Ops& ops = device().ops();
                                 run(ops);
                                 for (auto _ : state) run(ops);
                                 if (multiply_adds > 0)
                                   state.counters["GFLOP/s"] = benchmark::Counter(
                                       2e-9 * multiply_adds,
                                       benchmark::Counter::kIsIterationInvariantRate);
                               })
      ->Unit(benchmark::kMicrosecond)
      ->UseRealTime();
}

void products(const Sizes& z) {
  const std::string where = std::string("/") + z.name;
  const auto rows = static_cast<double>(z.B * z.S);
  for (const int64_t out : {z.D, 3 * z.D, z.F, 3 * z.D + z.F}) {
    const Tensor x = random({z.B, z.S, z.D}), y = random({z.B, z.S, out}), w = random({out, z.D});
    const Tensor bias = random({out}), a = random({z.R, z.D}), t = random({z.B, z.S, z.R});
    const Tensor b = random({out, z.R}), da = random({z.R, z.D}), db = random({out, z.R});
    const Weight weight{WeightFormat::f32, w};
    const std::string size = where + "/" + std::to_string(z.D) + "x" + std::to_string(out);
    const double base = rows * static_cast<double>(z.D * out);
    const double down = rows * static_cast<double>(z.D * z.R);
    const double up = rows * static_cast<double>(out * z.R);
    add("linear" + size, base, [=](Ops& op) { op.linear(y, x, weight, bias); });
    add("linear_dx" + size, base, [=](Ops& op) { op.linear_dx(x, y, weight, Grad::overwrite); });
    add("dense_down" + size, down, [=](Ops& op) { op.dense(t, x, a, {}, Grad::overwrite); });
    add("dense_up" + size, up, [=](Ops& op) { op.dense(y, t, b, {}, Grad::accumulate); });
    add("dense_dx_up" + size, up, [=](Ops& op) { op.dense_dx(t, y, b, {}, Grad::overwrite); });
    add("dense_dw_B" + size, up, [=](Ops& op) { op.dense_dw(db, y, t, {}, Grad::accumulate); });
    add("dense_dw_A" + size, down, [=](Ops& op) { op.dense_dw(da, t, x, {}, Grad::accumulate); });
    add("dense_dx_down" + size, down, [=](Ops& op) { op.dense_dx(x, t, a, {}, Grad::accumulate); });
  }
}

void attention(const Sizes& z) {
  const std::string where = std::string("/") + z.name;
  const Tensor q = random({z.B, z.S, z.D}), k = random({z.B, z.S, z.D}),
               v = random({z.B, z.S, z.D});
  const Tensor y = random({z.B, z.S, z.D}), c = random({z.B, z.S, z.D}),
               lse = random({z.B, z.H, z.S});
  const Tensor dq = random({z.B, z.S, z.D}), dk = random({z.B, z.S, z.D}),
               dv = random({z.B, z.S, z.D});
  const AttentionOptions o{.heads = z.H, .scale = 1 / std::sqrt(static_cast<double>(z.D / z.H))};
  const auto work = 2.0 * static_cast<double>(z.B * z.S * z.S * z.D);
  add("attention" + where, work, [=](Ops& op) { op.attention(y, lse, q, k, v, o); });
  add("attention_bwd" + where, 2.5 * work,
      [=](Ops& op) { op.attention_bwd(dq, dk, dv, c, y, lse, q, k, v, o); });
  const Tensor qkv = random({z.B, z.S, 3 * z.D}), w = random({z.D / z.H});
  const Tensor pe = random({z.S, z.D / z.H / 2, 2});
  add("qk_norm_rope" + where, 0, [=](Ops& op) { op.qk_norm_rope(q, k, qkv, w, w, pe, z.H); });
  add("qk_norm_rope_bwd" + where, 0,
      [=](Ops& op) { op.qk_norm_rope_bwd(qkv, dq, dk, qkv, w, w, pe, z.H); });
}

void rows(const Sizes& z) {
  const std::string where = std::string("/") + z.name;
  const Tensor x = random({z.B, z.S, z.D}), y = random({z.B, z.S, z.D}),
               h = random({z.B, z.S, z.D});
  const Tensor stats = random({z.B, z.S, 2}), shift = random({z.B, z.D}),
               scale = random({z.B, z.D});
  const Tensor gate = random({z.B, z.D}), u = random({z.B, z.S, z.F}), g = random({z.B, z.S, z.F});
  const Tensor d_g = random({z.B, z.S, z.F});
  add("gate_add_ln_modulate" + where, 0,
      [=](Ops& op) { op.gate_add_ln_modulate(x, h, stats, x, y, gate, shift, scale); });
  add("gate_add_ln_modulate_bwd" + where, 0, [=](Ops& op) {
    op.gate_add_ln_modulate_bwd(x, y, {}, {}, {}, h, x, stats, scale, {}, gate);
  });
  add("gelu_tanh" + where, 0, [=](Ops& op) { op.gelu_tanh(g, u); });
  add("gelu_tanh_bwd" + where, 0, [=](Ops& op) { op.gelu_tanh_bwd(g, d_g, u); });
}

void update() {
  const Tensor p = random({300000}), m = random({300000}), v = random({300000}),
               g = random({300000});
  const Tensor norm = random({1}), scalars = random({3});
  Device& here = device();
  here.ops().fill(v, 1);
  here.ops().fill(scalars, 0.1);
  add("global_norm/300k", 0, [=](Ops& op) { op.global_norm(norm, g); });
  add("adamw_step/300k", 0, [=](Ops& op) { op.adamw_step(p, m, v, g, norm, scalars, {}); });
}

void pictures() {
  const Tensor x = random({1, 64, 64, 128}), y = random({1, 64, 64, 128}),
               big = random({1, 128, 128, 128});
  const Tensor w = random({128, 3, 3, 128}), bias = random({128});
  add("conv2d/64x64x128", 64.0 * 64 * 128 * 128 * 9,
      [=](Ops& op) { op.conv2d(y, x, w, bias, {}); });
  add("group_norm/64x64x128", 0, [=](Ops& op) {
    op.group_norm(y.reshaped({1, 4096, 128}), x.reshaped({1, 4096, 128}), bias, bias, 32, 1e-6,
                  true);
  });
  add("upsample2x/64x64x128", 0, [=](Ops& op) { op.upsample2x(big, x); });
  const Tensor q = random({1, 1024, 512}), k = random({1, 1024, 512}), v = random({1, 1024, 512});
  const Tensor o = random({1, 1024, 512});
  add("attention/vae_1024x512", 2.0 * 1024 * 1024 * 512,
      [=](Ops& op) { op.attention(o, {}, q, k, v, {.heads = 1, .scale = 0.044}); });
}

}  // namespace
}  // namespace fluxlora

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (const auto& z : {fluxlora::kTiny, fluxlora::kWide}) {
    fluxlora::products(z);
    fluxlora::attention(z);
    fluxlora::rows(z);
  }
  fluxlora::update();
  fluxlora::pictures();
  benchmark::RunSpecifiedBenchmarks();
}
