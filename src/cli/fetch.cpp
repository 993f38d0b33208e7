// SPDX-License-Identifier: Apache-2.0
// fluxlora fetch: files of the models that make captions.
#include "caption/fetch.h"

#include <iostream>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/log.h"
#include "base/signal.h"
#include "cli/args.h"
#include "cli/commands.h"

namespace fluxlora::cli {
namespace {

struct FetchArgs {
  std::string name, output;
};

int run_fetch(const FetchArgs& args) {
  const caption::FetchModel& model = caption::find_fetch_model(args.name);
  install_signal_handlers();
  caption::FetchOptions options = caption::fetch_options_from_environment(
      args.output.empty() ? caption::fetched_folder(model) : std::filesystem::path(args.output));
  options.stop = stop_requested;
  const bool whole = caption::fetch(model, options);
  show_progress("");
  if (!whole) {
    log_info("interrupted; the same command goes on where it stopped");
    return 128 + stop_signal();
  }
  std::cout << options.folder.string() << "\n";
  log_info(
      fmt::format("use it by: fluxlora prepare PICTURES --output DIR --caption {} "
                  "--caption-model {}",
                  model.kind, args.output.empty() ? model.name : args.output));
  return 0;
}

std::string names() {
  std::string all;
  for (const caption::FetchModel& model : caption::fetch_models())
    all += (all.empty() ? "" : ", ") + model.name;
  return all;
}

}  // namespace

void add_fetch(CLI::App& program, int& status) {
  const auto args = std::make_shared<FetchArgs>();
  CLI::App* command = program.add_subcommand("fetch", "Fetch a model that makes captions");
  command->add_option("name", args->name, names())->required()->type_name("NAME");
  command
      ->add_option("--output", args->output,
                   "The folder for its files, instead of one beside the cache")
      ->type_name("FOLDER");
  set_example(*command, "fluxlora fetch wd-vit-tagger-v3");
  command->callback([args, &status] { status = run_fetch(*args); });
}

}  // namespace fluxlora::cli
