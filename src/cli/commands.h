// SPDX-License-Identifier: Apache-2.0
// The commands: each file adds one to the program and sets the exit status when it ran.
#pragma once

namespace CLI {
class App;
}

namespace fluxlora::cli {

/// Adds a sub-command with its options, its help and an example (args.h, set_example). The command
/// runs in its CLI11 callback: it sets `status` (0 at the start) or throws Error.
void add_train(CLI::App& program, int& status);
void add_prepare(CLI::App& program, int& status);
void add_sample(CLI::App& program, int& status);
void add_plan(CLI::App& program, int& status);
void add_evaluate(CLI::App& program, int& status);
void add_inspect(CLI::App& program, int& status);
void add_convert(CLI::App& program, int& status);
void add_resize(CLI::App& program, int& status);
void add_combine(CLI::App& program, int& status);
void add_extract(CLI::App& program, int& status);
void add_fetch(CLI::App& program, int& status);
void add_doctor(CLI::App& program, int& status);
void add_import(CLI::App& program, int& status);
void add_card(CLI::App& program, int& status);
void add_merge(CLI::App& program, int& status);

}  // namespace fluxlora::cli
