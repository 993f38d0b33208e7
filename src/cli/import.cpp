// SPDX-License-Identifier: Apache-2.0
// fluxlora import: another trainer's configuration becomes ours.
#include "config/import/import.h"

#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/args.h"
#include "cli/commands.h"

namespace fluxlora::cli {
namespace {

struct ImportArgs {
  std::vector<std::string> foreign;
  std::string output;
};

void run_import(const ImportArgs& args) {
  if (file_exists(args.output))
    throw bad_input("--output " + args.output, "is there already", "give another name");
  const config::Imported imported = config::import_config(args.foreign);
  write_file_atomically(args.output, config::imported_toml(imported));
  for (const std::string& line : config::import_report(imported)) log_info(line);
  log_info(fmt::format("{}: {} settings from a configuration of {}, {} without a counterpart",
                       args.output, imported.origin.size(), imported.peer, imported.listed.size()));
}

}  // namespace

void add_import(CLI::App& program, int&) {
  const auto args = std::make_shared<ImportArgs>();
  CLI::App* command =
      program.add_subcommand("import", "Make a configuration out of another trainer's");
  command
      ->add_option("foreign", args->foreign,
                   "kohya's TOML, ai-toolkit's YAML, a script with a command line, or the command "
                   "itself behind -- (docs/import.md)")
      ->required()
      ->type_name("FOREIGN");
  command->add_option("--output", args->output, "The configuration to write")
      ->required()
      ->type_name("CONFIG.toml");
  set_example(*command, "fluxlora import train_lora_flux_24gb.yaml --output my.toml");
  command->callback([args] { run_import(*args); });
}

}  // namespace fluxlora::cli
