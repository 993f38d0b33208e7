// SPDX-License-Identifier: Apache-2.0
// fluxlora resize, combine, extract: LoRAs of another rank, several in one, one out of two models.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "export/lora_dialects.h"
#include "export/lora_rank.h"
#include "model/flux/weights.h"
#include "model/pipeline.h"

namespace fluxlora::cli {
namespace {

namespace fs = std::filesystem;

struct Args {
  std::vector<std::string> in;
  fs::path out;
  std::string base, tuned, to, dtype, method = "concatenate";
  exporting::Cut cut;
};

void add_output_options(CLI::App& command, Args& args) {
  command.add_option("--output,-o", args.out, "The file to write")->required()->type_name("FILE");
  command.add_option("--to", args.to, "Its layout, as for convert")->type_name("LAYOUT");
  add_dtype_option(command, args.dtype);
}

void add_cut_options(CLI::App& command, Args& args) {
  command.add_option("--rank", args.cut.rank, "The rank of each layer, at most")
      ->check(CLI::Range(1, 4096).description(""))
      ->type_name("N");
  command
      .add_option("--energy", args.cut.energy,
                  "Only as much rank as keeps this part of each layer's |s B A|²")
      ->check(CLI::Range(0.0, 1.0).description(""))
      ->type_name("0..1");
}

/// The file, and a line for each layer that lost something, worst first.
void finish(const exporting::CutLora& made, const Args& args, const std::string& layout) {
  const std::string to = args.to.empty() ? layout : args.to;
  const exporting::Written written =
      exporting::write_lora(args.out, made.lora, to, dtype_option(args.dtype));
  std::vector<exporting::CutLayer> layers = made.layers;
  std::stable_sort(layers.begin(), layers.end(),
                   [](const auto& x, const auto& y) { return x.kept < y.kept; });
  constexpr size_t kShown = 8;
  for (size_t i = 0; i < std::min(kShown, layers.size()) && layers[i].kept < 1; ++i)
    std::cout << fmt::format("  {:<60} rank {:>4}  kept {:.4f}\n", layers[i].name, layers[i].rank,
                             layers[i].kept);
  std::cout << fmt::format("{}: {} modules, layout {}, energy kept {:.6f}, relative error {:.2e}\n",
                           args.out.string(), written.modules, to, made.kept,
                           std::sqrt(std::max(0.0, 1 - made.kept)));
}

/// A pipeline's folder has the transformer in a folder of its own.
fs::path transformer_of(const std::string& path) {
  const fs::path root = is_builtin_model(path) ? "builtin:tiny-flux" : fs::path(path);
  return folder_exists(root / "transformer") ? root / "transformer" : root;
}

TensorSource named_source(const fs::path& path, const flux::Config& config) {
  TensorSource source(path, Network::transformer);
  if (flux::has_diffusers_names(source)) source.set_names(flux::diffusers_table(config));
  return source;
}

void resize_file(const Args& args) {
  const exporting::LoraModules file = exporting::read_lora_modules(args.in.front());
  finish(exporting::resize(file, args.cut), args, exporting::dialect_of(file));
}

void combine_files(const Args& args, bool with_rank) {
  using exporting::Combination;
  const Combination how = args.method == "svd"      ? Combination::svd
                          : args.method == "linear" ? Combination::linear
                                                    : Combination::concatenate;
  if ((how == Combination::svd) != with_rank)
    throw bad_input("--rank", with_rank ? "is given without --method svd" : "is not given",
                    "--method svd --rank N cuts the sum to rank N; concatenate keeps all of it");
  std::vector<exporting::LoraModules> files;
  std::vector<double> weights;
  for (const std::string& text : args.in) {
    const LoraArg arg = parse_lora(text);
    files.push_back(exporting::read_lora_modules(arg.path));
    weights.push_back(arg.weight);
  }
  finish(exporting::combine(files, weights, how, args.cut), args,
         exporting::dialect_of(files.front()));
}

void extract_lora(const Args& args) {
  const fs::path base = transformer_of(args.base), tuned = transformer_of(args.tuned);
  const flux::Config config = flux::read_config(base);
  flux::check_weights(tuned, config);
  std::vector<std::string> others;
  const exporting::CutLora made =
      exporting::extract(named_source(base, config), named_source(tuned, config), config, args.cut,
                         show_progress, others);
  show_progress("");
  if (!others.empty())
    log_warning(fmt::format("{} biases and norms differ too, which a LoRA cannot hold: {}, ...",
                            others.size(), others.front()));
  Args with_dtype = args;
  if (args.dtype.empty()) with_dtype.dtype = "bf16";
  finish(made, with_dtype, "diffusers");
}

}  // namespace

void add_resize(CLI::App& program, int&) {
  auto args = std::make_shared<Args>();
  args->in.resize(1);
  CLI::App* command = program.add_subcommand(
      "resize", "Give a LoRA another rank, by the singular values of each layer's change");
  command->add_option("FILE", args->in[0], "A LoRA, DoRA or LoKr of any layout")
      ->required()
      ->type_name("");
  add_cut_options(*command, *args);
  command->get_option("--rank")->required();
  add_output_options(*command, *args);
  set_example(*command,
              "fluxlora resize my_lora.safetensors --rank 8 --output my_lora_r8.safetensors");
  command->callback([args] { resize_file(*args); });
}

void add_combine(CLI::App& program, int&) {
  auto args = std::make_shared<Args>();
  CLI::App* command = program.add_subcommand("combine", "Make one LoRA of several");
  command->add_option("FILES", args->in, "LoRAs of any layout, FILE or FILE:WEIGHT")
      ->required()
      ->type_name("");
  command
      ->add_option("--method", args->method,
                   "concatenate: exact, ranks add up; svd: cut to --rank; linear: sums of the "
                   "matrices themselves, as PEFT's")
      ->check(CLI::IsMember({"concatenate", "svd", "linear"}).description(""))
      ->type_name("HOW");
  add_cut_options(*command, *args);
  add_output_options(*command, *args);
  set_example(*command,
              "fluxlora combine face.safetensors ink.safetensors:0.6 --output both.safetensors");
  command->callback([args, command] { combine_files(*args, command->count("--rank") > 0); });
}

void add_extract(CLI::App& program, int&) {
  auto args = std::make_shared<Args>();
  CLI::App* command = program.add_subcommand(
      "extract", "Make a LoRA of the difference between a fine-tuned model and its base");
  command->add_option("--base", args->base, "The base model: a folder, a single file or tiny")
      ->required()
      ->type_name("MODEL");
  command->add_option("--tuned", args->tuned, "The fine-tuned model, likewise")
      ->required()
      ->type_name("MODEL");
  add_cut_options(*command, *args);
  add_output_options(*command, *args);
  set_example(*command,
              "fluxlora extract --base flux1-dev.safetensors --tuned mine.safetensors --rank 32 "
              "--output mine_lora.safetensors");
  command->callback([args] { extract_lora(*args); });
}

}  // namespace fluxlora::cli
