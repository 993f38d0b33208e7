// SPDX-License-Identifier: Apache-2.0
// The program: its commands, and the one place where errors are caught.
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>
#include <string>

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "base/log.h"
#include "cli/args.h"
#include "cli/commands.h"

namespace {

using namespace fluxlora;

/// What each command prints must have arrived, or a program that reads it gets half of it.
void check_stdout() {
  std::cout.flush();
  if (std::fflush(stdout) != 0 || !std::cout)
    throw environment_error("standard output", "cannot be written", "check the disk or the pipe");
}

int run(int count, char** values) {
  int status = 0;
  CLI::App program("Turns 10 to 30 pictures into a LoRA for FLUX.1.", "fluxlora");
  program.set_version_flag("--version", std::string("fluxlora ") + FLUXLORA_VERSION,
                           "Print the version and leave");
  program.set_help_flag("--help,-h", "Print this help and leave");
  program.require_subcommand(1);
  program.get_formatter()->label("SUBCOMMAND", "COMMAND");
  cli::set_example(program, "fluxlora train presets/quickstart.toml");
  cli::add_train(program, status);
  cli::add_prepare(program, status);
  cli::add_plan(program, status);
  cli::add_sample(program, status);
  cli::add_evaluate(program, status);
  cli::add_inspect(program, status);
  cli::add_convert(program, status);
  cli::add_merge(program, status);
  cli::add_import(program, status);
  cli::add_resize(program, status);
  cli::add_combine(program, status);
  cli::add_extract(program, status);
  cli::add_card(program, status);
  cli::add_fetch(program, status);
  cli::add_doctor(program, status);
  for (CLI::App* command : program.get_subcommands([](CLI::App*) { return true; }))
    command->group("Commands");
  try {
    program.parse(count, values);
  } catch (const CLI::Success& help_or_version) {
    program.exit(help_or_version, std::cout, std::cerr);
  } catch (const CLI::ParseError& problem) {
    throw cli::parse_error(program, problem, count, values);
  }
  check_stdout();
  return status;
}

/// Names of files may hold line feeds and codes that move a terminal's cursor.
std::string plain(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text;
}

int report(const Error& error) {
  show_progress("");
  const Error shown(error.kind(), plain(error.where()), plain(error.message()),
                    plain(error.hint()));
  std::fputs(shown.two_lines().c_str(), stderr);
  return static_cast<int>(error.kind());
}

}  // namespace

int main(int count, char** values) {
  try {
    return run(count, values);
  } catch (const Error& error) {
    return report(error);
  } catch (const std::bad_alloc&) {
    return report(environment_error("memory", "there is not enough of it",
                                    "close other programs, or use a smaller batch or resolution"));
  } catch (const std::exception& fault) {
    return report(Error(ErrorKind::internal, "fluxlora", fault.what(),
                        "this is a fault of the program; please report it with the command line"));
  }
}
