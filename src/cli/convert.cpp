// SPDX-License-Identifier: Apache-2.0
// fluxlora convert: a LoRA file in another program's layout.
#include <filesystem>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/log.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "export/lora_dialects.h"

namespace fluxlora::cli {
namespace {

struct Args {
  std::filesystem::path in, out;
  std::string to, dtype;
};

void convert_file(const Args& args) {
  const exporting::LoraModules file = exporting::read_lora_modules(args.in);
  const exporting::Written written =
      exporting::write_lora(args.out, file, args.to, dtype_option(args.dtype));
  if (written.has_t5 && (args.to == "diffusers" || args.to == "ai-toolkit"))
    log_warning("diffusers does not load the LoRA of the T5 encoder that is in the file");
  if (args.to == "diffusers" || args.to == "ai-toolkit")
    for (const exporting::LoraModule& module : file.modules)
      if (module.is_lokr()) {
        log_warning("diffusers does not load LoKr; `fluxlora resize --rank N` makes a LoRA of it");
        break;
      }
  std::cout << fmt::format("{}: {} modules, ", args.out.string(), written.modules)
            << (written.rounding == 0
                    ? std::string("the same change exactly\n")
                    : fmt::format("alpha / rank rounded B by at most {:.1e} of a layer's norm\n",
                                  written.rounding));
}

}  // namespace

void add_convert(CLI::App& program, int&) {
  auto args = std::make_shared<Args>();
  CLI::App* command =
      program.add_subcommand("convert", "Write a LoRA file in another program's layout");
  command->add_option("IN", args->in, "A LoRA file of any layout, or a folder of PEFT")
      ->required()
      ->type_name("");
  command
      ->add_option("--to", args->to,
                   fmt::format("The layout: {}", fmt::join(exporting::dialect_names(), ", ")))
      ->required()
      ->type_name("LAYOUT");
  command->add_option("--output,-o", args->out, "The file to write; a folder for peft")
      ->required()
      ->type_name("FILE");
  add_dtype_option(*command, args->dtype);
  set_example(*command,
              "fluxlora convert my_lora.safetensors --to kohya --output my_lora_kohya.safetensors");
  command->callback([args] { convert_file(*args); });
}

}  // namespace fluxlora::cli
