// SPDX-License-Identifier: Apache-2.0
// Time of each memory-bound kernel of a GPU at FLUX.1's sizes (1024x1024, 512 text tokens, batch
// 1), as GB/s beside a device copy measured in the same run: bytes read and bytes written, each
// once. Run: bench_kernels [--f32] [--only=WORD]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/philox.h"
#include "ops/device.h"

namespace fluxlora {
namespace {

using Shape = std::vector<int64_t>;
using Tensors = std::vector<Tensor>;

constexpr int64_t kS = 4608, kD = 3072, kF = 12288, kH = 24, kK = 128;
/// Sets of tensors are used in turn until they are this much larger than a cache, so that each run
/// reads from memory.
constexpr int64_t kBeyondCache = int64_t{512} << 20;

/// A tensor of a case and the share of it that moves: 0.5 where half of the columns are read.
struct Arg {
  enum Moves { read, write, both };
  Moves moves;
  Shape shape;
  bool act = true;  // in the dtype of activations, else f32
  double share = 1;
};

Arg in(Shape shape, double share = 1) {
  return {Arg::read, std::move(shape), true, share};
}
Arg out(Shape shape, double share = 1) {
  return {Arg::write, std::move(shape), true, share};
}
Arg both(Shape shape, double share = 1) {
  return {Arg::both, std::move(shape), true, share};
}
Arg single(Arg arg) {
  arg.act = false;
  return arg;
}

struct Case {
  std::string name;
  std::vector<Arg> args;
  std::function<void(Ops&, const Tensors&)> run;
};

class Bench {
 public:
  Bench(Device& device, DType act) : device_(device), act_(act) {
    // Numbers around 1, so that norms and roots are of ordinary size.
    Philox random(3, Draw::init);
    HostTensor host(DType::f32, {1 << 20});
    for (int64_t i = 0; i < host.view.size(); ++i)
      host.view.as<float>()[i] = static_cast<float>(1 + 0.1 * random.normal());
    numbers_ = device.allocate(host.view.bytes());
    device.upload(numbers(), host.view.data());
  }

  /// Seconds of one run: the best of several rounds of at least 20 ms.
  double seconds(const Case& c) {
    sets_.clear();
    const int64_t bytes = memory(c);
    const int64_t count =
        std::clamp<int64_t>(kBeyondCache / std::max<int64_t>(bytes, 1) + 1, 2, 64);
    for (int64_t i = 0; i < count; ++i) sets_.push_back(make_set(c));
    Ops& op = device_.ops();
    for (const Set& set : sets_) c.run(op, set.tensors);
    device_.synchronize();
    double best = 1e9;
    int64_t runs = count;
    for (int round = 0; round < 7; ++round) {
      const auto start = std::chrono::steady_clock::now();
      for (int64_t i = 0; i < runs; ++i) c.run(op, sets_[static_cast<size_t>(i % count)].tensors);
      device_.synchronize();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      if (took.count() < 0.02) {
        runs = std::max(
            runs + 1, static_cast<int64_t>(1.2 * 0.02 / took.count() * static_cast<double>(runs)));
        if (round == 0) continue;
      }
      best = std::min(best, took.count() / static_cast<double>(runs));
    }
    return best;
  }

  /// Bytes that one run must move.
  double bytes_moved(const Case& c) const {
    double sum = 0;
    for (const Arg& arg : c.args)
      sum += (arg.moves == Arg::both ? 2 : 1) * arg.share * static_cast<double>(bytes_of(arg));
    return sum;
  }

 private:
  struct Set {
    Buffer memory;
    Tensors tensors;
  };

  Tensor numbers() const { return {DType::f32, {1 << 20}, numbers_.data()}; }
  int64_t bytes_of(const Arg& arg) const {
    int64_t count = 1;
    for (const int64_t n : arg.shape) count *= n;
    return count * dtype_size(arg.act ? act_ : DType::f32);
  }
  int64_t memory(const Case& c) const {
    int64_t sum = 0;
    for (const Arg& arg : c.args) sum += (bytes_of(arg) + 255) / 256 * 256;
    return sum;
  }

  Set make_set(const Case& c) {
    Set set{device_.allocate(memory(c)), {}};
    char* next = static_cast<char*>(set.memory.data());
    for (const Arg& arg : c.args) {
      const DType dtype = arg.act ? act_ : DType::f32;
      set.tensors.emplace_back(dtype, arg.shape.data(), static_cast<int>(arg.shape.size()), next);
      fill(Tensor(dtype, {set.tensors.back().size()}, next));
      next += (bytes_of(arg) + 255) / 256 * 256;
    }
    return set;
  }

  void fill(const Tensor& flat) {
    for (int64_t at = 0; at < flat.size(); at += numbers().size()) {
      const int64_t count = std::min(numbers().size(), flat.size() - at);
      device_.ops().cast(flat.slice(0, at, count), numbers().slice(0, 0, count));
    }
  }

  Device& device_;
  DType act_;
  Buffer numbers_;
  std::vector<Set> sets_;
};

const Shape kX{1, kS, kD}, kV{1, kD}, kStats{1, kS, 2};

std::vector<Case> norm_cases() {
  const Arg stats_in = single(in(kStats)), stats_out = single(out(kStats));
  return {
      {"ln_modulate",
       {out(kX), stats_out, in(kX), in(kV), in(kV)},
       [](Ops& op, const Tensors& a) { op.ln_modulate(a[0], a[1], a[2], a[3], a[4]); }},
      {"gate_add_ln_modulate",
       {out(kX), out(kX), stats_out, in(kX), in(kX), in(kV), in(kV), in(kV)},
       [](Ops& op, const Tensors& a) {
         op.gate_add_ln_modulate(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
       }},
      {"gate_add_ln_modulate_bwd",
       {both(kX), out(kX), in(kX), in(kX), stats_in, in(kV), in(kV)},
       [](Ops& op, const Tensors& a) {
         op.gate_add_ln_modulate_bwd(a[0], a[1], {}, {}, {}, a[2], a[3], a[4], a[5], {}, a[6]);
       }},
      {"gate_add_ln_modulate_bwd, sums",
       {both(kX), out(kX), out(kV), out(kV), out(kV), in(kX), in(kX), stats_in, in(kV), in(kX),
        in(kV)},
       [](Ops& op, const Tensors& a) {
         op.gate_add_ln_modulate_bwd(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9],
                                     a[10]);
       }},
      {"gate_add",
       {out(kX), in(kX), in(kX), in(kV)},
       [](Ops& op, const Tensors& a) { op.gate_add(a[0], a[1], a[2], a[3]); }},
      {"gate_add_bwd, sums",
       {out(kX), out(kV), in(kX), in(kX), in(kV)},
       [](Ops& op, const Tensors& a) { op.gate_add_bwd(a[0], a[1], a[2], a[3], a[4]); }},
      {"layer_norm",
       {out(kX), in(kX), in({kD}), in({kD})},
       [](Ops& op, const Tensors& a) { op.layer_norm(a[0], {}, a[1], a[2], a[3], 1e-5); }},
      {"rms_norm (T5)",
       {out({1, kS, 4096}), in({1, kS, 4096}), in({4096})},
       [](Ops& op, const Tensors& a) { op.rms_norm(a[0], a[1], a[2], 1e-6); }},
      // Three sweeps, of which the second reads only sums: the picture is read twice, written once.
      {"group_norm + silu (VAE)",
       {out({1, 1 << 20, 128}), in({1, 1 << 20, 128}, 2), in({128}), in({128})},
       [](Ops& op, const Tensors& a) { op.group_norm(a[0], a[1], a[2], a[3], 32, 1e-6, true); }},
  };
}

/// The single block's wide rows: q, k, v and the feed-forward's input side by side.
std::vector<Case> attention_cases() {
  const int64_t wide = 3 * kD + kF;
  const double two = 2.0 * kD / static_cast<double>(wide);
  const Shape rows{1, kS, wide};
  const Arg pe = single(in({kS, kK / 2, 2}));
  return {
      {"qk_norm_rope",
       {out(kX), out(kX), in(rows, two), in({kK}), in({kK}), pe},
       [](Ops& op, const Tensors& a) { op.qk_norm_rope(a[0], a[1], a[2], a[3], a[4], a[5], kH); }},
      {"qk_norm_rope_bwd",
       {out(rows, two), in(kX), in(kX), in(rows, two), in({kK}), in({kK}), pe},
       [](Ops& op, const Tensors& a) {
         op.qk_norm_rope_bwd(a[0], a[1], a[2], a[3], a[4], a[5], a[6], kH);
       }},
  };
}

std::vector<Case> pointwise_cases() {
  const int64_t wide = 3 * kD + kF;
  const double share = static_cast<double>(kF) / static_cast<double>(wide);
  const double half = static_cast<double>(kF) / static_cast<double>(kD + kF);
  const Shape ff{1, kS, kF}, rows{1, kS, wide}, joined{1, kS, kD + kF};
  return {
      {"gelu_tanh", {out(ff), in(ff)}, [](Ops& op, const Tensors& a) { op.gelu_tanh(a[0], a[1]); }},
      {"gelu_tanh, columns of wide rows",
       {out(joined, half), in(rows, share)},
       [](Ops& op, const Tensors& a) {
         op.gelu_tanh(a[0].columns(kD, kF), a[1].columns(3 * kD, kF));
       }},
      {"gelu_tanh_bwd",
       {both(ff), in(ff)},
       [](Ops& op, const Tensors& a) { op.gelu_tanh_bwd(a[0], a[0], a[1]); }},
      {"silu", {out(ff), in(ff)}, [](Ops& op, const Tensors& a) { op.silu(a[0], a[1]); }},
      {"gelu_gate",
       {out(ff), in(ff), in(ff)},
       [](Ops& op, const Tensors& a) { op.gelu_gate(a[0], a[1], a[2]); }},
      {"add_scaled",
       {both(kX), in(kX)},
       [](Ops& op, const Tensors& a) { op.add_scaled(a[0], a[1], 1); }},
      {"copy of columns",
       {out(kX), in(rows, static_cast<double>(kD) / static_cast<double>(wide))},
       [](Ops& op, const Tensors& a) { op.copy(a[0], a[1].columns(kD, kD)); }},
      {"upsample2x (VAE)",
       {out({1, 512, 512, 256}), in({1, 256, 256, 256})},
       [](Ops& op, const Tensors& a) { op.upsample2x(a[0], a[1]); }},
  };
}

std::vector<Case> update_cases() {
  constexpr int64_t kParameters = 65 << 20;
  const Shape flat{kParameters}, latents{1, kS - 512, 64};
  return {
      {"cast to activations",
       {out(flat), single(in(flat))},
       [](Ops& op, const Tensors& a) { op.cast(a[0], a[1]); }},
      {"global_norm",
       {single(out({1})), single(in(flat))},
       [](Ops& op, const Tensors& a) { op.global_norm(a[0], a[1]); }},
      {"adamw_step",
       {single(both(flat)), single(both(flat)), single(both(flat)), single(in(flat)),
        single(in({1})), single(in({3}))},
       [](Ops& op, const Tensors& a) { op.adamw_step(a[0], a[1], a[2], a[3], a[4], a[5], {}); }},
      {"flow_loss",
       {single(out({1})), out(latents), in(latents), single(in(latents)), single(in(latents)),
        single(in({1}))},
       [](Ops& op, const Tensors& a) { op.flow_loss(a[0], a[1], a[2], a[3], a[4], a[5]); }},
  };
}

void run(DType act, const std::string& only) {
  const std::unique_ptr<Device> device = open_device("cuda");
  Bench bench(*device, act);
  const Case copy{"copy (cudaMemcpy)",
                  {single(out({int64_t{64} << 20})), single(in({int64_t{64} << 20}))},
                  [](Ops& op, const Tensors& a) { op.copy(a[0], a[1]); }};
  const double ceiling = bench.bytes_moved(copy) / bench.seconds(copy);
  std::printf("%s, activations %s, S %ld, D %ld\n", device->name().c_str(),
              std::string(safetensors_name(act)).c_str(), static_cast<long>(kS),
              static_cast<long>(kD));
  std::printf("%-36s %10s %10s %8s\n", "operation", "us", "GB/s", "of copy");
  std::printf("%-36s %10s %10.0f %7.0f%%\n", copy.name.c_str(), "", ceiling / 1e9, 100.0);
  for (const auto& cases : {norm_cases(), attention_cases(), pointwise_cases(), update_cases()})
    for (const Case& c : cases) {
      if (c.name.find(only) == std::string::npos) continue;
      const double seconds = bench.seconds(c), rate = bench.bytes_moved(c) / seconds;
      std::printf("%-36s %10.1f %10.0f %7.0f%%\n", c.name.c_str(), 1e6 * seconds, rate / 1e9,
                  100 * rate / ceiling);
      std::fflush(stdout);
    }
}

}  // namespace
}  // namespace fluxlora

int main(int argc, char** argv) {
  fluxlora::DType act = fluxlora::DType::bf16;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--f32") == 0) act = fluxlora::DType::f32;
    if (std::strncmp(argv[i], "--only=", 7) == 0) only = argv[i] + 7;
  }
  try {
    fluxlora::run(act, only);
    return 0;
  } catch (const fluxlora::Error& error) {
    std::fprintf(stderr, "%s", error.two_lines().c_str());
    return static_cast<int>(error.kind());
  }
}
