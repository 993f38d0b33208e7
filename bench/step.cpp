// SPDX-License-Identifier: Apache-2.0
// Median time of a LoRA training step (forward, loss, backward, update) of a transformer folder.
// Run: bench_step TRANSFORMER_FOLDER [batch] [text tokens] [image side in tokens] [rank] [steps]
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <vector>

#include <fmt/format.h>

#include "backend/cpu/cpu_device.h"
#include "base/philox.h"
#include "lora/adapter.h"
#include "model/flux/transformer.h"

namespace fluxlora {
namespace {

void fill_normal(const Tensor& x, Philox& philox, double scale) {
  for (int64_t i = 0; i < x.size(); ++i)
    x.as<float>()[i] = static_cast<float>(scale * philox.normal());
}

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

/// One run's adapters, workspace and optimizer state.
struct Step {
  Step(Device& d, flux::Transformer& m, const flux::Sizes& z, int64_t rank)
      : device(d),
        adapters(
            d, m.weights(),
            lora::select_targets(m.config(), {.rank = rank, .alpha = static_cast<double>(rank)}),
            DType::f32, true),
        work(m, z, {.training = true}) {
    Philox philox(1, Draw::init);
    fill_normal(adapters.params(), philox, 0.02);
    const flux::Inputs& in = work.inputs();
    for (const Tensor& x : {in.img, in.txt, in.pooled}) fill_normal(x, philox, 1);
    x0 = HostTensor(DType::f32, {z.B, z.N(), m.config().in_channels});
    noise = HostTensor(DType::f32, {z.B, z.N(), m.config().in_channels});
    fill_normal(x0.view, philox, 1);
    fill_normal(noise.view, philox, 1);
    device.ops().fill(in.t, 0.5);
    device.ops().fill(in.guidance, 1);
    for (HostTensor* x : {&loss, &weight}) *x = HostTensor(DType::f32, {z.B});
    device.ops().fill(weight.view, 1.0 / static_cast<double>(z.B));
    for (HostTensor* x : {&moment1, &moment2}) {
      *x = HostTensor(DType::f32, {adapters.size()});
      device.ops().fill(x->view, 0);
    }
    norm = HostTensor(DType::f32, {1});
    scalars = HostTensor(DType::f32, {3});
    device.ops().fill(scalars.view, 0.1);
  }

  void run() {
    Ops& op = device.ops();
    op.fill(adapters.grads(), 0);
    work.forward();
    op.flow_loss(loss.view, work.d_prediction(), work.prediction(), x0.view, noise.view,
                 weight.view);
    work.backward();
    op.global_norm(norm.view, adapters.grads());
    op.adamw_step(adapters.params(), moment1.view, moment2.view, adapters.grads(), norm.view,
                  scalars.view, {});
  }

  Device& device;
  lora::AdapterSet adapters;
  flux::Workspace work;
  HostTensor x0, noise, loss, weight, moment1, moment2, norm, scalars;
};

int64_t number(int argc, char** argv, int i, int64_t otherwise) {
  return argc > i ? std::atoll(argv[i]) : otherwise;
}

}  // namespace
}  // namespace fluxlora

int main(int argc, char** argv) {
  using namespace fluxlora;
  if (argc < 2) return fmt::print(stderr, "bench_step TRANSFORMER_FOLDER [B] [M] [side] [R]\n"), 2;
  const auto device = open_cpu_device();
  flux::Transformer model(*device, argv[1], DType::f32);
  const int64_t side = number(argc, argv, 4, 8);
  const flux::Sizes z =
      model.sizes(number(argc, argv, 2, 4), number(argc, argv, 3, 64), side, side);
  Step step(*device, model, z, number(argc, argv, 5, 16));
  for (int i = 0; i < 3; ++i) step.run();
  std::vector<double> times;
  const double cpu = cpu_seconds();
  const int64_t steps = number(argc, argv, 6, 20);
  for (int64_t i = 0; i < steps; ++i) {
    const double start = seconds();
    step.run();
    times.push_back(seconds() - start);
  }
  const double used = (cpu_seconds() - cpu) / static_cast<double>(steps);
  std::sort(times.begin(), times.end());
  fmt::print("{}: B {} S {} D {}: median {:.1f} ms, best {:.1f} ms, {:.1f} ms of processor time\n",
             device->name(), z.B, z.S(), z.D, 1e3 * times[times.size() / 2], 1e3 * times.front(),
             1e3 * used);
}
