// SPDX-License-Identifier: Apache-2.0
// fluxlora merge: one model with LoRAs inside.
#include "export/merge.h"

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "train/run_folder.h"

namespace fluxlora::cli {
namespace {

namespace fs = std::filesystem;

struct MergeArgs {
  std::string model;
  std::vector<std::string> loras;
  fs::path output;
  exporting::MergeOptions options;
  DeviceArgs device;
};

void run_merge(const MergeArgs& args) {
  std::vector<exporting::WeightedLora> loras;
  for (const std::string& text : args.loras) {
    const LoraArg lora = parse_lora(text);
    loras.push_back({lora.path, lora.weight});
  }
  std::error_code code;
  if (fs::exists(args.output, code))
    throw bad_input(args.output.string(), "is there already", "remove it, or give another name");
  args.device.apply_threads();
  const bool one_file = args.output.extension() == ".safetensors";
  std::optional<train::FolderInTheMaking> folder;
  if (!one_file) folder.emplace(args.output);
  const exporting::Merged merged = exporting::merge_model(args.model, loras, args.options,
                                                          folder ? folder->path() : args.output);
  if (folder) folder->finish();
  if (merged.text_modules)
    log_warning(
        fmt::format("{} modules change a text encoder and are left out: the file holds a "
                    "transformer",
                    merged.text_modules));
  if (merged.unscaled)
    log_warning(
        "fp8 without scales: weights are far below its range, most of a LoRA's change is lost in "
        "its coarse steps; --format fp8-scaled keeps more");
  log_info(fmt::format("{}: {} layers changed", args.output.string(), merged.layers));
}

}  // namespace

void add_merge(CLI::App& program, int&) {
  const auto args = std::make_shared<MergeArgs>();
  CLI::App* command = program.add_subcommand("merge", "Make one model with LoRAs inside");
  command
      ->add_option("--model", args->model,
                   "A model folder, a single file, or tiny for the built-in model")
      ->required()
      ->type_name("MODEL");
  command->add_option("--lora", args->loras, "A LoRA, with a weight if it is not 1")
      ->required()
      ->type_name("FILE[:WEIGHT]");
  command
      ->add_option("--output", args->output,
                   "NAME.safetensors, or a folder to make in diffusers' layout")
      ->required()
      ->type_name("OUT");
  command
      ->add_option("--format", args->options.format,
                   "same (as the model), f32, bf16, f16, fp8 or fp8-scaled (ComfyUI's)")
      ->type_name("FORMAT");
  command->add_option("--seed", args->options.seed, "Of the rounding; equal seeds give equal files")
      ->type_name("N");
  command->add_option("--threads", args->device.threads, "Threads to use; all cores unless given")
      ->check(CLI::Range(1, 4096).description(""))
      ->type_name("N");
  set_example(*command,
              "fluxlora merge --model models/FLUX.1-dev --lora runs/mascot/mascot.safetensors:0.9 "
              "--output mascot.safetensors");
  command->callback([args] { run_merge(*args); });
}

}  // namespace fluxlora::cli
