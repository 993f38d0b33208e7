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
#include "train/automatic.h"
#include "train/fill_in.h"
#include "train/memory_plan.h"
#include "train/refit.h"
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
void compare_with_earlier(train::RunOptions& options) {
  train::RunOptions earlier = config::load_config(train::run_paths(options).config());
  if (options.model.text_precision == "auto")  // settled when the run began
    options.model.text_precision = earlier.model.text_precision;
  static_cast<ModelPaths&>(earlier.model) = options.model;
  earlier.model.assistant_lora = options.model.assistant_lora;
  earlier.lora.continue_from = options.lora.continue_from;
  if (options.train.schedule.schedule == "constant") earlier.train.steps = options.train.steps;
  const size_t folders = options.dataset.folders.size();
  if (earlier.dataset.folders.size() == folders)
    for (size_t i = 0; i < folders; ++i)
      earlier.dataset.folders[i].path = options.dataset.folders[i].path;
  earlier.validate.stop = options.validate.stop;
  earlier.validate.refit = options.validate.refit;
  const auto difference = config::first_difference(earlier, options);
  if (!difference) return;
  throw bad_input(difference->key,
                  fmt::format("is {}, but the run began with {}", difference->b, difference->a),
                  "set it back to go on, or give another output.path");
}

train::Outcome train_once(Device& device, const train::RunOptions& options,
                          const std::vector<std::string>& chosen, bool resume) {
  train::Texts texts;
  for (const std::string& reason : chosen) texts.config += "# auto: " + reason + "\n";
  texts.config += config::to_toml(options);
  texts.identity = [&options](const std::string& model, const std::string& dataset) {
    return config::identity_toml(options, model, dataset);
  };
  const std::unique_ptr<monitor::Sink> console = monitor::make_console();
  for (const std::string& reason : chosen) console->on_note(reason);
  const train::Outcome outcome =
      train::Trainer(device, options, texts, {{console.get()}, stop_requested}).run(resume);
  show_progress("");
  return outcome;
}

/// validate.refit: what is there of another refit, of another length, goes.
train::Outcome train_again(Device& device, const train::RunOptions& options) {
  const train::RunPaths paths = train::run_paths(options);
  log_info(fmt::format("training once more, on all pictures, for {} steps", options.train.steps));
  std::error_code ignored;  // whatever stays shows in the run's own errors
  if (file_exists(paths.config()) && read_text(paths.config()) != config::to_toml(options))
    std::filesystem::remove_all(paths.root, ignored);
  return train_once(device, options, {}, folder_exists(paths.root));
}

int run_train(const TrainArgs& args) {
  train::RunOptions options = config::load_config(args.config, args.sets);
  const ModelFiles files = open_model(options.model);
  train::fill_in(options, files);
  std::vector<std::string> chosen = train::settle_automatic(options);
  const bool goes_on = args.resume && file_exists(train::run_paths(options).config());
  if (goes_on) compare_with_earlier(options);
  args.device.apply_threads();
  const std::unique_ptr<Device> device = open_device(args.device.device);
  if (!goes_on) {
    const std::string reason = train::settle_text_precision(
        options, files, device->is_host(), train::machine_of(*device, options.memory));
    if (!reason.empty()) chosen.push_back(reason);
  }
  install_signal_handlers();

  train::Outcome outcome = train_once(*device, options, chosen, args.resume);
  if (outcome.stopped) return 128 + stop_signal();
  if (const auto all = train::refit_options(options)) {
    outcome = train_again(*device, *all);
    if (!outcome.stopped) train::take_refit(options, *all);
  }
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
