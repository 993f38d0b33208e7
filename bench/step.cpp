// SPDX-License-Identifier: Apache-2.0
// A LoRA training step (forward, loss, backward, update) of a transformer with random weights:
// median time, memory, and for each family of operations the share of its measured ceiling.
// Run: bench_step --help
#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/error.h"
#include "base/philox.h"
#include "lora/adapter.h"
#include "memory/gpus.h"
#include "model/flux/transformer.h"
#include "model/precision.h"
#include "timed_device.h"

namespace fluxlora {
namespace {

struct Options {
  std::string device = "auto", precision = "auto", targets = "default";
  int64_t double_blocks = 19, single_blocks = 38, heads = 24;
  int64_t batch = 1, text_tokens = 512, side = 64, rank = 16, steps = 20;
  bool families = false, operations = false, any_order = false;
};

/// Normal numbers for whatever is asked, again and again from one block of a million.
class Normal {
 public:
  explicit Normal(Device& device) : device_(device), host_(DType::f32, {1 << 20}) {
    Philox philox(1, Draw::init);
    for (int64_t i = 0; i < host_.view.size(); ++i)
      host_.view.as<float>()[i] = static_cast<float>(philox.normal());
    memory_ = device.allocate(host_.view.bytes());
    numbers_ = Tensor(DType::f32, {host_.view.size()}, memory_.data());
  }

  void fill(const Tensor& x, double scale) const {
    const HostTensor scaled(DType::f32, {host_.view.size()});
    for (int64_t i = 0; i < scaled.view.size(); ++i)
      scaled.view.as<float>()[i] = static_cast<float>(scale) * host_.view.as<float>()[i];
    device_.upload(numbers_, scaled.view.data());
    in_pieces(x, [&](const Tensor& piece) {
      device_.ops().cast(piece, numbers_.slice(0, 0, piece.size()));
    });
    device_.synchronize();
  }

  /// A matrix N(0, 1/in), so that numbers stay of ordinary size.
  void fill(const Weight& w) const {
    const double scale = 1 / std::sqrt(static_cast<double>(w.in()));
    if (w.format != WeightFormat::fp8) return fill(w.values, scale);
    HostTensor bytes(DType::f8_e4m3, {host_.view.size()});
    for (int64_t i = 0; i < host_.view.size(); ++i)
      bytes.view.as<uint8_t>()[i] = f32_to_f8_e4m3(100 * host_.view.as<float>()[i]);
    in_pieces(w.values, [&](const Tensor& piece) { device_.upload(piece, bytes.view.data()); });
    device_.ops().fill(w.scales, scale / 100);
  }

 private:
  template <typename F>
  void in_pieces(const Tensor& x, const F& f) const {
    const Tensor flat(x.dtype(), {x.size()}, x.data());
    for (int64_t at = 0; at < x.size(); at += host_.view.size())
      f(flat.slice(0, at, std::min(host_.view.size(), x.size() - at)));
  }

  Device& device_;
  HostTensor host_;
  Buffer memory_;
  Tensor numbers_;
};

void fill_model(flux::Transformer& model, const Normal& normal) {
  Ops& op = model.device().ops();
  flux::Weights& weights = model.weights();
  flux::visit_linears(weights, [&](const std::string&, AdaptedLinear& layer) {
    normal.fill(layer.weight);
    if (layer.bias) op.fill(layer.bias, 0);
  });
  const auto norms = [&](const flux::QkNorm& n) {
    op.fill(n.query_norm, 1);
    op.fill(n.key_norm, 1);
  };
  for (const auto& block : weights.double_blocks)
    for (const auto& stream : block.stream) norms(stream.norm);
  for (const auto& block : weights.single_blocks) norms(block.norm);
}

/// One run's adapters, workspace and optimizer state.
struct Step {
  Step(Device& d, flux::Transformer& m, const flux::Sizes& z, const Options& o,
       const Normal& normal)
      : device(d),
        adapters(d, m.weights(),
                 lora::select_targets(m.config(), {.rank = o.rank,
                                                   .alpha = static_cast<double>(o.rank),
                                                   .targets = {o.targets}}),
                 m.act(), true),
        work(m, z, {.training = true}) {
    const int64_t N = z.B * z.N() * m.config().in_channels, P = adapters.size();
    memory = device.allocate((2 * N + 2 * P + 2 * z.B + 4) * static_cast<int64_t>(sizeof(float)));
    const Tensor flat(DType::f32, {memory.bytes() / 4}, memory.data());
    int64_t at = 0;
    const auto take = [&](int64_t size) {
      return flat.slice(0, std::exchange(at, at + size), size);
    };
    x0 = take(N).reshaped({z.B, z.N(), m.config().in_channels});
    noise = take(N).reshaped({z.B, z.N(), m.config().in_channels});
    moment1 = take(P);
    moment2 = take(P);
    loss = take(z.B);
    weight = take(z.B);
    norm = take(1);
    scalars = take(3);
    device.ops().fill(flat, 0);
    for (const Tensor& x : {x0, noise}) normal.fill(x, 1);
    normal.fill(adapters.params(), 0.02);
    adapters.refresh();
    const flux::Inputs& in = work.inputs();
    for (const Tensor& x : {in.img, in.txt, in.pooled}) normal.fill(x, 1);
    device.ops().fill(in.t, 0.5);
    device.ops().fill(in.guidance, 1);
    device.ops().fill(weight, 1.0 / static_cast<double>(z.B));
    device.ops().fill(scalars, 1e-4);
  }

  void run() {
    Ops& op = device.ops();
    adapters.clear_gradients();
    op.flow_interpolate(work.inputs().img, x0, noise, work.inputs().t);
    work.forward();
    op.flow_loss(loss, work.d_prediction(), work.prediction(), x0, noise, weight);
    work.backward();
    adapters.finish_gradients();
    op.global_norm(norm, adapters.grads());
    op.adamw_step(adapters.params(), moment1, moment2, adapters.grads(), norm, scalars, {});
    adapters.refresh();
  }

  Device& device;
  lora::AdapterSet adapters;
  flux::Workspace work;
  Buffer memory;
  Tensor x0, noise, loss, weight, moment1, moment2, norm, scalars;
};

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void print(const char* title, const std::map<std::string, bench::TimedDevice::Time>& times,
           int64_t steps) {
  fmt::print("\n{:<26}{:>7}{:>11}{:>14}{:>9}\n", title, "calls", "ms", "ms at ceiling", "share");
  std::vector<std::pair<std::string, bench::TimedDevice::Time>> sorted(times.begin(), times.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  double sum = 0;
  for (const auto& [name, time] : sorted) {
    const auto of_step = [&](double s) { return 1e3 * s / static_cast<double>(steps); };
    sum += of_step(time.seconds);
    fmt::print("{:<26}{:>7}{:>11.2f}{:>14.2f}{:>8.0f}%\n", name, time.calls / steps,
               of_step(time.seconds), of_step(time.at_rates), 100 * time.at_rates / time.seconds);
  }
  fmt::print("{:<26}{:>7}{:>11.2f}\n", "sum", "", sum);
}

void measure(const Options& o) {
  const auto real = open_device(o.device);
  if (o.any_order) bench::let_add_in_any_order(*real);
  const auto gpu = find_gpu(real->name());
  bench::TimedDevice device(*real, gpu && gpu->rates ? *gpu->rates : assumed_rates());
  const MemoryInfo before = device.memory();
  const Precision precision = transformer_precision(o.precision, device.is_host());
  flux::Config config;
  config.depth = o.double_blocks;
  config.depth_single = o.single_blocks;
  config.H = o.heads;
  const Normal normal(device);
  flux::Transformer model(device, config, precision.act, precision.format);
  fill_model(model, normal);
  const flux::Sizes z = model.sizes(o.batch, o.text_tokens, o.side, o.side);
  Step step(device, model, z, o, normal);

  for (int i = 0; i < 3; ++i) step.run();
  device.synchronize();
  std::vector<double> times;
  double issued = 0;
  const double cpu = static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  for (int64_t i = 0; i < o.steps; ++i) {
    const double start = seconds_now();
    step.run();
    issued += seconds_now() - start;
    device.synchronize();
    times.push_back(seconds_now() - start);
  }
  const double used = static_cast<double>(std::clock()) / CLOCKS_PER_SEC - cpu;
  std::sort(times.begin(), times.end());
  const auto steps = static_cast<double>(o.steps);
  fmt::print("{}, {}{}: B {} S {} D {}, rank {}, {} adapters\n", device.name(), o.precision,
             o.any_order ? ", in any order" : "", z.B, z.S(), z.D, o.rank,
             step.adapters.specs().size());
  fmt::print(
      "step: median {:.1f} ms, best {:.1f}, worst {:.1f}; host {:.1f} ms to issue, {:.1f} of "
      "processor time\n",
      1e3 * times[times.size() / 2], 1e3 * times.front(), 1e3 * times.back(), 1e3 * issued / steps,
      1e3 * used / steps);
  std::vector<float> loss(static_cast<size_t>(z.B));
  device.download(loss.data(), step.loss);
  fmt::print("memory: {:.0f} MiB of the device; last loss {:.4f}\n",
             static_cast<double>(before.free - device.memory().free) / (1 << 20), loss[0]);
  if (!o.families && !o.operations) return;
  device.recording = true;
  const int64_t recorded = std::min<int64_t>(o.steps, 5);
  for (int64_t i = 0; i < recorded; ++i) step.run();
  device.recording = false;
  const auto found = device.take();
  if (o.families) print("family", found.families, recorded);
  if (o.operations) print("operation", found.operations, recorded);
}

}  // namespace
}  // namespace fluxlora

int main(int argc, char** argv) {
  using namespace fluxlora;
  Options o;
  CLI::App app("Measures a LoRA training step on random weights; FLUX.1-dev's sizes by default.");
  app.add_option("--device", o.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--precision", o.precision, "auto, f32, bf16 or fp8")->capture_default_str();
  app.add_option("--double", o.double_blocks, "double-stream blocks")->capture_default_str();
  app.add_option("--single", o.single_blocks, "single-stream blocks")->capture_default_str();
  app.add_option("--heads", o.heads, "heads, of width 128")->capture_default_str();
  app.add_option("--batch", o.batch, "pictures a step")->capture_default_str();
  app.add_option("--text-tokens", o.text_tokens, "text tokens")->capture_default_str();
  app.add_option("--side", o.side, "a picture's side in tokens: 64 for 1024 pixels")
      ->capture_default_str();
  app.add_option("--rank", o.rank, "rank of the adapters")->capture_default_str();
  app.add_option("--targets", o.targets, "lora.targets")->capture_default_str();
  app.add_option("--steps", o.steps, "steps to take the median of")->capture_default_str();
  app.add_flag("--any-order", o.any_order,
               "let a GPU add in any order: not the same bytes each time");
  app.add_flag("--families", o.families, "time families of operations");
  app.add_flag("--operations", o.operations, "time each operation");
  CLI11_PARSE(app, argc, argv);
  try {
    measure(o);
  } catch (const Error& error) {
    fmt::print(stderr, "{}", error.two_lines());
    return static_cast<int>(error.kind());
  }
  return 0;
}
