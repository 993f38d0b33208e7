// SPDX-License-Identifier: Apache-2.0
// fluxlora plan: memory by owner and time per step, before anything is loaded.
#include <iostream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/machine.h"
#include "config/config.h"
#include "model/precision.h"
#include "train/automatic.h"
#include "train/fill_in.h"
#include "train/memory_plan.h"

namespace fluxlora::cli {
namespace {

using Json = nlohmann::ordered_json;

struct PlanArgs {
  std::string config, gpu;
  std::vector<std::string> sets;
  bool json = false;
  DeviceArgs device;
};

constexpr int64_t kFluxSide = 1024;

/// The model's files, the transformer alone when others are missing: then the options that they
/// would fill in get FLUX.1's own values.
ModelFiles open_what_is_there(train::RunOptions& o) {
  try {
    const ModelFiles files = open_model(o.model);
    train::fill_in(o, files);
    return files;
  } catch (const Error& missing) {
    const ModelFiles files = open_transformer(o.model);
    if (missing.kind() != ErrorKind::bad_input) throw;
    log_warning(fmt::format("{}; the sizes of FLUX.1 are assumed", missing.message()));
    if (o.model.text_tokens == 0) o.model.text_tokens = train::default_text_tokens(files);
    for (int64_t* side : {&o.dataset.resolution, &o.sample.width, &o.sample.height})
      if (*side == 0) *side = side == &o.dataset.resolution ? kFluxSide : o.dataset.resolution;
    return files;
  }
}

/// Batches of squares, as the configuration says.
std::vector<BatchShape> shapes_of(const train::RunOptions& o) {
  std::set<int64_t> sides;
  for (const FolderOptions& folder : o.dataset.folders)
    sides.insert(folder.resolutions.begin(), folder.resolutions.end());
  if (sides.empty()) sides.insert(o.dataset.resolution);
  std::vector<BatchShape> shapes;
  for (const int64_t side : sides)
    shapes.push_back({{static_cast<int>(side), static_cast<int>(side)}, o.train.batch_size});
  return shapes;
}

/// A GPU that need not be here, or the device that is.
train::Machine machine_for(const PlanArgs& args, const train::RunOptions& o, bool& on_host) {
  on_host = false;
  if (args.gpu.empty() && o.memory.vram.empty()) {
    const std::unique_ptr<Device> device = open_device(args.device.device);
    on_host = device->is_host();
    train::Machine machine = train::machine_of(*device, o.memory);
    if (on_host && machine.budget == 0)
      if (const auto memory = memory_facts()) machine.budget = memory->available;
    return machine;
  }
  train::Machine machine{.name = args.gpu.empty() ? "a GPU" : args.gpu,
                         .context = train::kDriverContext};
  const auto kind = find_gpu(args.gpu);
  if (kind) machine.rates = kind->rates;
  if (kind) machine.budget = kind->memory;
  if (!o.memory.vram.empty()) machine.budget = train::parse_bytes("memory.vram", o.memory.vram);
  if (machine.budget == 0)
    throw bad_input(
        "--gpu", fmt::format("\"{}\" is not known", args.gpu),
        fmt::format("set memory.vram too, or give one of {}", fmt::join(gpu_names(), ", ")));
  if (!o.memory.ram.empty()) machine.host_budget = train::parse_bytes("memory.ram", o.memory.ram);
  return machine;
}

/// What the weights are kept in.
struct Formats {
  std::string transformer, t5;
};

void print_json(const train::MemoryPlan& plan, const train::Machine& machine,
                const Formats& formats) {
  Json json;
  json["device"] = machine.name;
  json["budget_bytes"] = plan.budget;
  json["total_bytes"] = plan.device_bytes;
  json["host_bytes"] = plan.host_bytes;
  json["precision"] = formats.transformer;
  json["text_precision"] = formats.t5;
  json["phase"] = plan.phase;
  json["owners"] = Json::array();
  for (const train::MemoryOwner& o : plan.owners)
    json["owners"].push_back(
        {{"name", o.name}, {"bytes", o.bytes}, {"where", o.device ? "device" : "host"}});
  json["plan"] = plan.summary();
  json["seconds_per_step"] = plan.seconds_per_step ? Json(*plan.seconds_per_step) : Json();
  std::cout << json.dump(2) << '\n';
}

void print_text(const train::MemoryPlan& plan, const train::Machine& machine,
                const Formats& formats) {
  const auto mib = [](int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  std::cout << fmt::format("{}, weights {}, T5's {}, phase \"{}\"\n", machine.name,
                           formats.transformer, formats.t5, plan.phase);
  for (const train::MemoryOwner& o : plan.owners)
    std::cout << fmt::format("  {:<24}{:>10.0f} MiB{}\n", o.name, mib(o.bytes),
                             o.device ? "" : "  (host)");
  std::cout << fmt::format("  {:<24}{:>10.0f} MiB of {:.0f}\n", "in all", mib(plan.device_bytes),
                           mib(plan.budget));
  std::cout << plan.summary() << '\n';
  if (plan.seconds_per_step)
    std::cout << fmt::format("about {:.3f} s a step on paper\n", *plan.seconds_per_step);
}

void run_plan(const PlanArgs& args) {
  train::RunOptions options = config::load_config(args.config, args.sets);
  const ModelFiles files = open_what_is_there(options);
  if (options.lora.rank == train::kAutomatic)  // the steps do not matter here
    for (const std::string& reason : train::settle_automatic(options)) log_info(reason);
  bool on_host = false;
  const train::Machine machine = machine_for(args, options, on_host);
  const std::string chosen = train::settle_text_precision(options, files, on_host, machine);
  if (!chosen.empty()) log_info(chosen);
  const train::MemoryPlan plan =
      train::plan_memory(train::plan_inputs(options, files, on_host, shapes_of(options)), machine);
  const Formats formats{word_for(transformer_precision(options.model.precision, on_host).format),
                        word_for(text_precision(options.model.text_precision, on_host).format)};
  if (args.json)
    print_json(plan, machine, formats);
  else
    print_text(plan, machine, formats);
}

}  // namespace

void add_plan(CLI::App& program, int& status) {
  const auto args = std::make_shared<PlanArgs>();
  CLI::App* command =
      program.add_subcommand("plan", "Show a run's memory and time before anything is loaded");
  command->add_option("config", args->config, "The run's configuration (docs/config.md)")
      ->required()
      ->type_name("CONFIG.toml");
  command->add_option("--set", args->sets, "Another value for a key of the configuration")
      ->type_name("TABLE.KEY=VALUE");
  command->add_option("--gpu", args->gpu, "Plan for this GPU, which need not be here")
      ->type_name("NAME");
  command->add_flag("--json", args->json, "For programs");
  add_device_options(*command, args->device);
  set_example(*command, "fluxlora plan presets/quickstart.toml --gpu \"RTX 4090\"");
  command->callback([args, &status] {
    run_plan(*args);
    status = 0;
  });
}

}  // namespace fluxlora::cli
