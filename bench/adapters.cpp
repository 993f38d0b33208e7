// SPDX-License-Identifier: Apache-2.0
// Median time of a training step (forward, loss, backward, update) of a transformer folder for
// every kind of adapter, and its ratio to LoRA's. The kinds take turns, so that a busy machine is
// the same to all. Run: bench_adapters TRANSFORMER_FOLDER [batch] [text tokens] [image side in
// tokens] [rank] [steps]
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "backend/cpu/cpu_device.h"
#include "training_step.h"

namespace fluxlora {
namespace {

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

int64_t number(int argc, char** argv, int i, int64_t otherwise) {
  return argc > i ? std::atoll(argv[i]) : otherwise;
}

}  // namespace
}  // namespace fluxlora

int main(int argc, char** argv) {
  using namespace fluxlora;
  if (argc < 2)
    return fmt::print(stderr, "bench_adapters TRANSFORMER_FOLDER [B] [M] [side] [R]\n"), 2;
  const auto device = open_cpu_device();
  flux::Transformer model(*device, argv[1], DType::f32);
  const bench::Normal normal(*device);
  const int64_t side = number(argc, argv, 4, 8);
  const flux::Sizes z =
      model.sizes(number(argc, argv, 2, 4), number(argc, argv, 3, 64), side, side);
  const int64_t rank = number(argc, argv, 5, 16), steps = number(argc, argv, 6, 20);
  const lora::Options plain{.rank = rank, .alpha = static_cast<double>(rank)};
  std::vector<std::pair<const char*, lora::Options>> kinds(7, {"lora", plain});
  kinds[1] = {"dropout of rank", plain};
  kinds[1].second.dropout = 0.1;
  kinds[2] = {"dropout of input", kinds[1].second};
  kinds[2].second.dropout_of = "input";
  kinds[3] = {"a start subtracted", plain};
  kinds[3].second.init = "pissa";
  kinds[4] = {"dora", plain};
  kinds[4].second.type = "dora";
  kinds[5] = {"lokr, factor 8", plain};
  kinds[5].second.type = "lokr";
  kinds[6] = {"lokr, factor 2", kinds[5].second};
  kinds[6].second.factor = 2;
  std::vector<std::vector<double>> times(kinds.size());
  std::vector<double> cpu(kinds.size(), 0.0);
  for (int64_t round = 0; round < 4; ++round)
    for (size_t k = 0; k < kinds.size(); ++k) {
      bench::TrainingStep step(*device, model, z, kinds[k].second, normal);
      step.run();
      const double cpu_before = cpu_seconds();
      for (int64_t i = 0; i < (steps + 3) / 4; ++i) {
        const double start = seconds();
        step.run();
        times[k].push_back(seconds() - start);
      }
      cpu[k] += cpu_seconds() - cpu_before;
    }
  const auto median = [&](size_t k) {
    std::sort(times[k].begin(), times[k].end());
    return times[k][times[k].size() / 2];
  };
  const double lora = median(0);
  fmt::print(
      "{}: B {} S {} D {}: lora median {:.1f} ms, best {:.1f} ms, {:.1f} ms of processor time\n",
      device->name(), z.B, z.S(), z.D, 1e3 * lora, 1e3 * times[0].front(),
      1e3 * cpu[0] / static_cast<double>(times[0].size()));
  for (size_t k = 1; k < kinds.size(); ++k)
    fmt::print("{}: {:.2f} times LoRA's processor time, {:.2f} times its median time\n",
               kinds[k].first, cpu[k] / cpu[0], median(k) / lora);
}
