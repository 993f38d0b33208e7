// SPDX-License-Identifier: Apache-2.0
// A LoRA training step (forward, loss, backward, update) of a transformer with random weights:
// median time, memory, and for each family of operations the share of its measured ceiling.
// Run: bench_step --help
#include <algorithm>
#include <chrono>
#include <ctime>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/error.h"
#include "memory/gpus.h"
#include "model/precision.h"
#include "timed_device.h"
#include "training_step.h"

namespace fluxlora {
namespace {

struct Options {
  std::string device = "auto", precision = "auto", targets = "default";
  int64_t double_blocks = 19, single_blocks = 38, heads = 24;
  int64_t batch = 1, text_tokens = 512, side = 64, rank = 16, steps = 20;
  bool families = false, operations = false, any_order = false;
};

void fill_model(flux::Transformer& model, const bench::Normal& normal) {
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
  const bench::Normal normal(device);
  flux::Transformer model(device, config, precision.act, precision.format);
  fill_model(model, normal);
  const flux::Sizes z = model.sizes(o.batch, o.text_tokens, o.side, o.side);
  bench::TrainingStep step(
      device, model, z,
      {.rank = o.rank, .alpha = static_cast<double>(o.rank), .targets = {o.targets}}, normal);
  normal.fill(step.adapters.params(), 0.02);  // B too: every product has numbers
  step.adapters.refresh();

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
  app.add_option("--precision", o.precision, "auto, f32, bf16, fp8, int8 or nf4")->capture_default_str();
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
