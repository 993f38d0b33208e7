// SPDX-License-Identifier: Apache-2.0
// fluxlora sample: pictures from prompts.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "data/caption.h"
#include "eval/painter.h"
#include "export/lora_file.h"
#include "model/precision.h"
#include "tensor/safetensors.h"
#include "train/fill_in.h"

namespace fluxlora::cli {
namespace {

namespace fs = std::filesystem;

struct SampleArgs {
  ModelPaths model;
  std::string prompt, prompts, output, latents, precision = "auto";
  std::vector<std::string> loras;
  int64_t seed = 0, steps = 0, width = 0, height = 0, count = 1, text_tokens = 0;
  double guidance = 3.5;
  DeviceArgs device;
};

std::vector<std::string> read_prompts(const SampleArgs& args) {
  if (args.prompts.empty()) return {args.prompt};
  std::vector<std::string> prompts;
  const std::string text = read_text(args.prompts);
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = collapse_spaces(text.substr(at, end - at));
    if (!line.empty()) prompts.push_back(line);
    at = end + 1;
  }
  if (prompts.empty()) throw bad_input(args.prompts, "has no prompt", "write one prompt a line");
  return prompts;
}

/// The starts that --latents gives: (B, C, h, w).
std::optional<HostTensor> read_latents(const SampleArgs& args, int64_t channels, int64_t step,
                                       Size& size) {
  if (args.latents.empty()) return std::nullopt;
  const SafetensorsFile file(args.latents);
  const auto& shape = file.entry("latents").shape;
  if (shape.size() != 4 || shape[0] < 1 || shape[1] != channels || shape[2] < 2 || shape[3] < 2 ||
      shape[2] % 2 || shape[3] % 2)
    throw bad_input(args.latents, "tensor \"latents\" does not fit the model",
                    fmt::format("give noise of the shape (B, {}, height/{}, width/{})", channels,
                                step / 2, step / 2));
  const Size own{static_cast<int>(shape[3] * step / 2), static_cast<int>(shape[2] * step / 2)};
  if ((args.width && args.width != own.width) || (args.height && args.height != own.height))
    throw bad_input(
        "--width, --height", "contradict the size of --latents",
        fmt::format("leave them out: the latents are for {}x{}", own.width, own.height));
  size = own;
  return file.read("latents", DType::f32);
}

/// F.png, or F-1.png, F-2.png ... for several pictures.
fs::path output_name(const fs::path& output, size_t index, size_t count) {
  if (count == 1) return output;
  return output.parent_path() /
         fmt::format("{}-{}{}", output.stem().string(), index + 1, output.extension().string());
}

/// What --lora adds to the model.
struct Attached {
  std::unique_ptr<ClipText> clip;  ///< when it carries adapters
  std::unique_ptr<lora::AdapterSet> adapters;
};

/// All LoRAs on the model at once: their changes add up.
Attached attach(flux::Transformer& model, const ModelFiles& folder,
                const std::vector<std::string>& texts) {
  std::vector<exporting::LoraFile> files;
  std::vector<lora::AdapterSpec> specs;
  for (const std::string& text : texts) {
    const LoraArg arg = parse_lora(text);
    files.push_back(exporting::read_lora(arg.path, model.config(), read_clip_config(folder.clip)));
    for (lora::AdapterSpec spec : files.back().specs) {
      spec.alpha *= arg.weight;
      specs.push_back(spec);
    }
  }
  if (specs.empty()) return {};
  const bool dora = std::any_of(specs.begin(), specs.end(), [](const auto& s) { return s.dora; });
  if (dora && files.size() > 1)
    throw bad_input("--lora", "a DoRA cannot be added to other LoRAs",
                    "give it alone, or merge one into the model first: fluxlora merge");
  Attached attached;
  if (lora::has_clip(specs))
    attached.clip = std::make_unique<ClipText>(model.device(), folder.clip, model.act());
  attached.adapters = std::make_unique<lora::AdapterSet>(
      model.device(), lora::Networks{model.weights(), attached.clip.get()}, specs, model.act(),
      /*trains=*/false);
  attached.adapters->measure_rows(model.loaded());
  size_t first = 0;
  for (const exporting::LoraFile& file : files) {
    exporting::upload(*attached.adapters, first, file);
    first += file.specs.size();
  }
  return attached;
}

void check_args(const SampleArgs& args) {
  if (fs::path(args.output).extension() != ".png")
    throw bad_input("--output " + args.output, "does not end in .png", "pictures are PNG files");
  if (args.prompt.empty() && args.prompts.empty())
    throw bad_input("--prompt", "is not given", "say what the picture should show");
}

int run_sample(const SampleArgs& args) {
  check_args(args);
  const ModelFiles folder = open_model(args.model);
  const flux::Config config = flux::read_config(folder.transformer);
  const int64_t step = eval::size_step(folder);
  const int64_t side = eval::native_side(args.model.path, folder);
  Size size{static_cast<int>(args.width ? args.width : side),
            static_cast<int>(args.height ? args.height : side)};
  const auto start = read_latents(args, config.in_channels / 4, step, size);
  eval::check_size("--width, --height", size, step);
  const std::vector<std::string> prompts = read_prompts(args);
  const int64_t starts = start ? start->view.dim(0) : 0;
  const size_t per_prompt = static_cast<size_t>(std::max(args.count, starts));
  const int64_t text_tokens =
      args.text_tokens ? args.text_tokens : train::default_text_tokens(folder);
  const int64_t steps = args.steps ? args.steps : config.guidance_embed ? 28 : 4;

  args.device.apply_threads();
  const std::unique_ptr<Device> device = open_device(args.device.device);
  const std::string text_precision =
      eval::automatic_precision(folder, text_tokens, device->is_host(), device->memory().free);
  eval::PromptBook book = eval::encode_prompts(
      *device, folder, prompts, {.text_tokens = text_tokens, .precision = text_precision});
  const Precision precision = transformer_precision(args.precision, device->is_host());
  flux::Transformer model(*device, folder.transformer, precision.act, precision.format);
  const Attached attached = attach(model, folder, args.loras);
  if (attached.clip) {
    attached.clip->prepare(1, /*training=*/false);
    eval::encode_pooled_again(*attached.clip, *device, book);
  }
  eval::Painter painter(model, folder, size, text_tokens);

  const size_t total = prompts.size() * per_prompt;
  for (size_t i = 0; i < total; ++i) {
    show_progress(fmt::format("picture {} of {}", i + 1, total));
    HostTensor noise;
    if (!start)
      noise = eval::sample_noise(static_cast<uint64_t>(args.seed) + i, painter.channels(),
                                 painter.height(), painter.width());
    const Tensor first =
        start ? start->view.item(static_cast<int64_t>(i) % starts) : noise.view;  // (C, h, w)
    std::vector<HostTensor> latents;
    latents.push_back(painter.paint(book.at(prompts[i / per_prompt]), first, steps, args.guidance));
    write_png(output_name(args.output, i, total), eval::decode(*device, folder, latents).front());
  }
  show_progress("");
  return 0;
}

}  // namespace

void add_sample(CLI::App& program, int& status) {
  const auto args = std::make_shared<SampleArgs>();
  CLI::App* command = program.add_subcommand("sample", "Make pictures from a prompt");
  add_model_options(*command, args->model)->required();
  command->add_option("--lora", args->loras, "A LoRA and its weight; several add up")
      ->type_name("FILE[:WEIGHT]");
  command->add_option("--prompt", args->prompt, "What the picture shows");
  command->add_option("--prompts", args->prompts, "A file with one prompt a line")
      ->type_name("FILE")
      ->excludes("--prompt");
  command->add_option("--output", args->output, "The picture; F-1.png, F-2.png ... for several")
      ->required()
      ->type_name("F.png");
  command->add_option("--seed", args->seed, "Of the first picture; the next ones count up");
  command->add_option("--steps", args->steps, "Euler steps; 28, or 4 for schnell")
      ->check(CLI::Range(1, 1000));
  command->add_option("--guidance", args->guidance, "Fed to the model; 3.5 unless given");
  command->add_option("--width", args->width, "Pixels; the model's own unless given");
  command->add_option("--height", args->height, "Pixels; the model's own unless given");
  command->add_option("--count", args->count, "Pictures of each prompt")
      ->check(CLI::Range(1, 10000));
  command->add_option("--precision", args->precision,
                      "Format of the frozen weights: auto, f32, bf16, fp8, int8 or nf4");
  command->add_option("--text-tokens", args->text_tokens, "T5 tokens; 512, or 256 for schnell")
      ->check(CLI::Range(1, 512));
  command
      ->add_option("--latents", args->latents,
                   "The start: tensor \"latents\", f32 (B, C, h, w), pure noise")
      ->type_name("F.safetensors");
  add_device_options(*command, args->device);
  set_example(*command,
              "fluxlora sample --model tiny --prompt \"a red circle\" --output circle.png");
  command->callback([args, &status] { status = run_sample(*args); });
}

}  // namespace fluxlora::cli
