// SPDX-License-Identifier: Apache-2.0
// fluxlora train: the whole job.
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/signal.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "config/config.h"
#include "monitor/console.h"
#include "train/fill_in.h"
#include "train/run_folder.h"
#include "train/trainer.h"

namespace fluxlora::cli {
namespace {

struct TrainArgs {
  std::string config;
  std::vector<std::string> sets;
  bool resume = false;
  DeviceArgs device;
};

/// A run goes on only with what decides its result unchanged. Model and pictures may have moved:
/// the trainer compares their content. More steps are welcome where the rate of a step does not
/// depend on their number.
void compare_with_earlier(const train::RunOptions& options) {
  const std::filesystem::path file = train::run_paths(options).config();
  if (!file_exists(file)) return;
  train::RunOptions earlier = config::load_config(file);
  static_cast<ModelPaths&>(earlier.model) = options.model;
  earlier.model.assistant_lora = options.model.assistant_lora;
  earlier.lora.continue_from = options.lora.continue_from;
  if (options.train.schedule.schedule == "constant") earlier.train.steps = options.train.steps;
  const size_t folders = options.dataset.folders.size();
  if (earlier.dataset.folders.size() == folders)
    for (size_t i = 0; i < folders; ++i)
      earlier.dataset.folders[i].path = options.dataset.folders[i].path;
  const auto difference = config::first_difference(earlier, options);
  if (!difference) return;
  throw bad_input(difference->key,
                  fmt::format("is {}, but the run began with {}", difference->b, difference->a),
                  "set it back to go on, or give another output.path");
}

int run_train(const TrainArgs& args) {
  train::RunOptions options = config::load_config(args.config, args.sets);
  train::fill_in(options, open_model(options.model));
  if (args.resume) compare_with_earlier(options);
  args.device.apply_threads();
  const std::unique_ptr<Device> device = open_device(args.device.device);
  install_signal_handlers();

  train::Texts texts;
  texts.config = config::to_toml(options);
  texts.identity = [&options](const std::string& model, const std::string& dataset) {
    return config::identity_toml(options, model, dataset);
  };
  const std::unique_ptr<monitor::Sink> console = monitor::make_console();
  const train::Outcome outcome =
      train::Trainer(*device, options, texts, {{console.get()}, stop_requested}).run(args.resume);
  show_progress("");
  return outcome.stopped ? 128 + stop_signal() : 0;
}

}  // namespace

void add_train(CLI::App& program, int& status) {
  const auto args = std::make_shared<TrainArgs>();
  CLI::App* command = program.add_subcommand("train", "Train a LoRA from pictures");
  command->add_option("config", args->config, "The run's configuration (docs/config.md)")
      ->required()
      ->type_name("CONFIG.toml");
  command->add_option("--set", args->sets, "Another value for a key of the configuration")
      ->type_name("TABLE.KEY=VALUE");
  command->add_flag("--resume", args->resume, "Go on from the last checkpoint");
  add_device_options(*command, args->device);
  set_example(*command, "fluxlora train presets/quickstart.toml --set train.steps=300");
  command->callback([args, &status] { status = run_train(*args); });
}

}  // namespace fluxlora::cli
