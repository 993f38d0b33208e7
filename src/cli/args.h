// SPDX-License-Identifier: Apache-2.0
// Options that several commands share, and CLI11's complaints in our two lines.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/error.h"
#include "model/pipeline.h"
#include "tensor/dtype.h"

namespace CLI {
class App;
class Option;
class ParseError;
}  // namespace CLI

namespace fluxlora::cli {

/// Where and on how many threads a command computes.
struct DeviceArgs {
  std::string device = "auto";
  int threads = 0;  ///< 0: all cores that the process may use

  /// Sets the number of threads of the pool, if one was given. Call it before open_device(device).
  void apply_threads() const;
};

/// Adds --model and the options for what a single file lacks; returns that of --model.
CLI::Option* add_model_options(CLI::App& command, ModelPaths& model);

/// Adds --dtype f32|bf16|f16, the types in which a file's matrices can be written.
void add_dtype_option(CLI::App& command, std::string& dtype);
/// What add_dtype_option's word means; nothing for an empty one.
std::optional<DType> dtype_option(const std::string& dtype);

/// Adds --device auto|cpu|cuda[:N] and --threads N; `args` must outlive the parse.
void add_device_options(CLI::App& command, DeviceArgs& args);

/// A LoRA and how strong it is.
struct LoraArg {
  std::filesystem::path path;
  double weight = 1;
};

/// "F" or "F:0.7". Throws Error (bad_input) for another ending.
LoraArg parse_lora(const std::string& text);

/// Every command shows one line that works, below its help.
void set_example(CLI::App& command, const std::string& line);

/// What CLI11 could not parse as an Error (bad_input) with the nearest command or option in its
/// hint. `count` and `values` are main's arguments.
Error parse_error(const CLI::App& program, const CLI::ParseError& problem, int count,
                  const char* const* values);

}  // namespace fluxlora::cli
