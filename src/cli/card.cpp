// SPDX-License-Identifier: Apache-2.0
// fluxlora card: a folder that `hf upload` pushes as it is, with a model card that Hugging Face's
// hub understands (its documentation: "Model cards", "Widgets").
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "config/config.h"
#include "model/flux/config.h"
#include "model/pipeline.h"
#include "train/fill_in.h"
#include "train/previews.h"
#include "train/run_folder.h"

namespace fluxlora::cli {
namespace {

namespace fs = std::filesystem;

struct CardArgs {
  fs::path run, output;
  std::string base;
};

/// A model of the hub and the licence that a LoRA of it falls under.
struct Base {
  std::string id;       ///< "black-forest-labs/FLUX.1-dev"; empty: not on the hub
  std::string licence;  ///< lines of the card's head
  std::string note;     ///< for people
};

constexpr const char* kDevLicence =
    "license: other\n"
    "license_name: flux-1-dev-non-commercial-license\n"
    "license_link: https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md\n";

/// The name says which of the distilled models it is; without one the guidance embedding tells dev
/// from schnell.
Base base_of(const train::RunOptions& options, const std::string& given) {
  if (given.empty() && options.model.path == "tiny")
    return {"", "license: apache-2.0\n",
            "Made with fluxlora's built-in model, which is under the Apache License 2.0. It has no "
            "use beside that model."};
  std::string id = given;
  if (id.empty()) {
    const bool krea = options.model.path.find("krea") != std::string::npos ||
                      options.model.path.find("Krea") != std::string::npos;
    const ModelFiles files = open_model(options.model);
    const bool dev = flux::read_config(files.transformer).guidance_embed;
    id = std::string("black-forest-labs/FLUX.1-") + (!dev ? "schnell" : krea ? "Krea-dev" : "dev");
  }
  if (id.find("schnell") != std::string::npos)
    return {id, "license: apache-2.0\n",
            "FLUX.1 [schnell] is under the Apache License 2.0, and so is this LoRA."};
  return {
      id, kDevLicence,
      "A LoRA is a derivative of its base model. FLUX.1 [dev] and models made from it are under "
      "the FLUX.1 [dev] Non-Commercial License: this LoRA may be used and shared under the same "
      "terms. Check the rights in the training pictures too."};
}

/// Text in YAML: JSON's strings are YAML's.
std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump();
}

/// A line of text in Markdown: what would start markup is escaped.
std::string plain(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (std::string_view("\\`*_[]<>#|").find(c) != std::string_view::npos) escaped += '\\';
    escaped += c;
  }
  return escaped;
}

struct Widget {
  std::string prompt;
  fs::path picture;  ///< in the run
  std::string name;  ///< in the folder: "images/0.png"
};

std::vector<Widget> widgets_of(const train::RunPaths& paths, const train::RunOptions& options) {
  const std::vector<int64_t> steps = train::step_folders(paths.samples());
  if (steps.empty()) return {};
  const std::vector<std::string> files = train::sample_files(paths.samples(steps.back()));
  std::vector<Widget> widgets;
  for (size_t i = 0; i < files.size() && i < options.sample.prompts.size(); ++i)
    widgets.push_back({train::sample_prompt(options.sample.prompts[i], options.subject.trigger),
                       files[i], fmt::format("images/{}.png", i)});
  return widgets;
}

std::string head(const train::RunOptions& options, const Base& base,
                 const std::vector<Widget>& widgets) {
  std::string text = "---\n" + base.licence;
  if (!base.id.empty())
    text += fmt::format("base_model: {}\nbase_model_relation: adapter\n", quoted(base.id));
  text += fmt::format("instance_prompt: {}\n", quoted(options.subject.trigger));
  text += "library_name: diffusers\npipeline_tag: text-to-image\n";
  text += "tags:\n- text-to-image\n- lora\n- diffusers\n- flux\n- fluxlora\n";
  if (!widgets.empty()) text += "widget:\n";
  for (const Widget& widget : widgets)
    text += fmt::format("- text: {}\n  output:\n    url: {}\n", quoted(widget.prompt), widget.name);
  return text + "---\n";
}

std::string usage(const train::RunOptions& options, const Base& base, const std::string& file) {
  if (base.id.empty()) return "";
  return fmt::format(R"(
## Use

In ComfyUI put `{0}` into `models/loras` and load it with the LoRA loader. In diffusers:

```python
import torch
from diffusers import FluxPipeline

pipe = FluxPipeline.from_pretrained({1}, torch_dtype=torch.bfloat16).to("cuda")
pipe.load_lora_weights("USER/REPOSITORY", weight_name={2})  # this repository's name
pipe({3}).images[0].save("picture.png")
```
)",
                     file, quoted(base.id), quoted(file), quoted(options.subject.trigger));
}

std::string body(const train::RunOptions& options, const Base& base,
                 const std::vector<Widget>& widgets, const std::string& file) {
  const auto& t = options.train;
  std::string text = fmt::format("\n# {}\n\n", plain(options.subject.name));
  if (!widgets.empty()) text += "<Gallery />\n\n";
  text += fmt::format("A LoRA for {}. Use {} in the prompt: it calls the {}.\n",
                      base.id.empty() ? "the built-in model of fluxlora"
                                      : fmt::format("[{0}](https://huggingface.co/{0})", base.id),
                      "**" + plain(options.subject.trigger) + "**", options.subject.kind);
  text += usage(options, base, file);
  text += fmt::format(
      "\n## Training\n\n| | |\n|---|---|\n| steps | {} of batch {} |\n| rank, alpha | {}, {} |\n"
      "| layers | {} |\n| optimizer, rate | {}, {} |\n| resolution | {} |\n",
      t.steps, t.batch_size * t.accumulation, options.lora.rank, options.lora.alpha,
      plain(fmt::format("{}", fmt::join(options.lora.targets, ", "))), plain(t.optimizer.optimizer),
      t.schedule.learning_rate, options.dataset.resolution);
  return text + "\n## Licence\n\n" + base.note + "\n";
}

void run_card(const CardArgs& args) {
  const fs::path config = args.run / "config.toml";
  if (!file_exists(config))
    throw bad_input(args.run.string(), "is not the folder of a run",
                    "give a folder that fluxlora train left, with config.toml in it");
  train::RunOptions options = config::load_config(config);
  options.output.path = args.run;
  const train::RunPaths paths = train::run_paths(options);
  if (!file_exists(paths.lora()))
    throw bad_input(paths.lora().string(), "does not exist",
                    "finish the run first: fluxlora train CONFIG.toml --resume");
  const Base base = base_of(options, args.base);
  const std::vector<Widget> widgets = widgets_of(paths, options);
  const std::string file = paths.lora().filename().string();
  const fs::path output = args.output.empty() ? args.run / "card" : args.output;
  std::error_code code;
  if (fs::exists(output, code))
    throw bad_input(output.string(), "is there already", "remove it, or give another --output");

  train::FolderInTheMaking folder(output);
  write_file_atomically(folder.path() / "README.md",
                        head(options, base, widgets) + body(options, base, widgets, file));
  write_file_atomically(folder.path() / file, map_file(paths.lora()).bytes);
  if (!widgets.empty()) make_folder(folder.path() / "images");
  for (const Widget& widget : widgets)
    write_file_atomically(folder.path() / widget.name, map_file(widget.picture).bytes);
  folder.finish();
  log_info(fmt::format("{}: the card, {} and {} pictures; push it with: hf upload USER/NAME {}",
                       output.string(), file, widgets.size(), output.string()));
}

}  // namespace

void add_card(CLI::App& program, int&) {
  const auto args = std::make_shared<CardArgs>();
  CLI::App* command =
      program.add_subcommand("card", "Make a folder to publish on Hugging Face out of a run");
  command->add_option("run", args->run, "A run's folder")->required()->type_name("RUN");
  command->add_option("--output", args->output, "The folder to make; RUN/card unless given")
      ->type_name("FOLDER");
  command
      ->add_option("--base", args->base,
                   "The base model's name on the hub; told from the model unless given")
      ->type_name("OWNER/NAME");
  set_example(*command, "fluxlora card runs/quickstart");
  command->callback([args] { run_card(*args); });
}

}  // namespace fluxlora::cli
