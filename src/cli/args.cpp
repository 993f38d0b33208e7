// SPDX-License-Identifier: Apache-2.0
#include "cli/args.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <span>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/file.h"
#include "base/nearest.h"
#include "base/parallel.h"

namespace fluxlora::cli {
namespace {

constexpr int kMostThreads = 4096;

std::string check_device(std::string& text) {
  const std::string_view device = text;
  if (device == "auto" || device == "cpu" || device == "cuda") return "";
  if (device.starts_with("cuda:")) {
    const std::string_view number = device.substr(5);
    const auto is_digit = [](unsigned char c) { return std::isdigit(c) != 0; };
    if (!number.empty() && number.size() <= 4 &&
        std::all_of(number.begin(), number.end(), is_digit))
      return "";
  }
  return fmt::format("\"{}\" is not a device; give auto, cpu, cuda or cuda:N", text);
}

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  while (!text.empty() && (text.back() == ' ' || text.back() == '.')) text.pop_back();
  return text;
}

std::vector<std::string> command_names(const CLI::App& program) {
  std::vector<std::string> names;
  for (const CLI::App* command : program.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  return names;
}

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

std::string meant(std::string_view word, const std::vector<std::string>& names,
                  const std::string& otherwise) {
  const auto nearest = nearest_name(word, names);
  return nearest ? fmt::format("did you mean {}?", *nearest) : otherwise;
}

/// Something on the command line that no option or argument takes.
Error unexpected(const std::string& where, std::string word, const CLI::App& command) {
  const std::string help = where + " --help shows what it takes";
  if (!word.starts_with('-'))
    return bad_input(where, fmt::format("does not know what to do with \"{}\"", word), help);
  word = word.substr(0, word.find('='));
  return bad_input(where, fmt::format("unknown option {}", word),
                   meant(word, option_names(command), help));
}

Error no_command(const CLI::App& program, std::span<const char* const> arguments) {
  const std::string help = "fluxlora --help lists the commands";
  if (arguments.empty()) return bad_input("fluxlora", "no command was given", help);
  const std::string word = arguments.front();
  if (word.starts_with('-')) return unexpected("fluxlora", word, program);
  return bad_input("fluxlora", fmt::format("unknown command \"{}\"", word),
                   meant(word, command_names(program), help));
}

}  // namespace

void DeviceArgs::apply_threads() const {
  if (threads > 0) set_thread_count(threads);
}

CLI::Option* add_model_options(CLI::App& command, ModelPaths& model) {
  const auto part = [&](const char* name, std::filesystem::path& path, const char* meaning,
                        const char* type) {
    command.add_option(name, path, meaning)->type_name(type);
  };
  CLI::Option* option =
      command
          .add_option("--model", model.path,
                      "A model folder, a single file, or tiny for the built-in model")
          ->type_name("MODEL");
  part("--vae", model.vae, "The VAE, when the model's file has none", "PATH");
  part("--clip", model.clip, "The CLIP text encoder, likewise", "PATH");
  part("--t5", model.t5, "The T5 encoder, likewise", "PATH");
  part("--clip-tokenizer", model.clip_tokenizer, "A folder with vocab.json and merges.txt",
       "FOLDER");
  part("--t5-tokenizer", model.t5_tokenizer, "A folder with spiece.model", "FOLDER");
  return option;
}

void add_dtype_option(CLI::App& command, std::string& dtype) {
  command.add_option("--dtype", dtype, "Types of the matrices; those of the file unless given")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}).description(""))
      ->type_name("f32|bf16|f16");
}

std::optional<DType> dtype_option(const std::string& dtype) {
  if (dtype.empty()) return std::nullopt;
  return dtype == "f32" ? DType::f32 : dtype == "bf16" ? DType::bf16 : DType::f16;
}

void add_device_options(CLI::App& command, DeviceArgs& args) {
  command
      .add_option(
          "--device", args.device,
          "Where to compute: auto, cpu, cuda or cuda:N; auto is the first GPU, else the CPU")
      ->check(CLI::Validator(check_device, "", "device"))
      ->type_name("NAME");
  command.add_option("--threads", args.threads, "Threads to use; all cores unless given")
      ->check(CLI::Range(1, kMostThreads).description(""))
      ->type_name("N");
}

LoraArg parse_lora(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || file_exists(text)) return {text};
  LoraArg lora{text.substr(0, colon)};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, lora.weight);
  if (error != std::errc() || stop != end || !std::isfinite(lora.weight))
    throw bad_input("--lora " + text, "does not end in a weight", "give FILE or FILE:0.7");
  return lora;
}

void set_example(CLI::App& command, const std::string& line) {
  command.footer("Example:\n  " + line);
}

Error parse_error(const CLI::App& program, const CLI::ParseError& problem, int count,
                  const char* const* values) {
  const std::vector<CLI::App*> parsed = program.get_subcommands();
  if (parsed.empty()) {
    const size_t arguments = count > 1 ? static_cast<size_t>(count) - 1 : 0;
    return no_command(program, {values + 1, arguments});
  }
  const CLI::App& command = *parsed.front();
  const std::string where = "fluxlora " + command.get_name();
  if (dynamic_cast<const CLI::ExtrasError*>(&problem)) {
    const std::vector<std::string> left = program.remaining(true);
    if (!left.empty()) return unexpected(where, left.front(), command);
  }
  return bad_input(where, one_line(problem.what()), where + " --help shows what it takes");
}

}  // namespace fluxlora::cli
