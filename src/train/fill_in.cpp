// SPDX-License-Identifier: Apache-2.0
#include "train/fill_in.h"

#include <fmt/format.h>

#include "base/error.h"
#include "eval/painter.h"
#include "export/lora_file.h"
#include "model/flux/config.h"
#include "model/precision.h"
#include "train/memory_plan.h"
#include "train/start.h"

namespace fluxlora::train {
namespace {

constexpr int64_t kMostTextTokens = 512;
constexpr double kLeastForProdigy = 0.01;

void check_choices(RunOptions& o) {
  transformer_precision(o.model.precision, /*on_host=*/true);
  text_precision(o.model.text_precision, /*on_host=*/true);
  if (o.lora.type == "lokr" && o.output.format != "diffusers" &&
      o.output.format != exporting::kLokrFormat)
    throw bad_input("output.format",
                    "LoKr is written in LyCORIS' layout alone, not as " + o.output.format,
                    fmt::format("leave it out, or write \"{}\"", exporting::kLokrFormat));
  if (o.output.dtype != "f32" && o.output.dtype != "bf16" && o.output.dtype != "f16")
    throw bad_input("output.dtype", "\"" + o.output.dtype + "\" is not a type of tensors",
                    "use f32, bf16 or f16");
  if (o.train.steps < 0 || o.train.steps > 10'000'000)
    throw bad_input("train.steps", fmt::format("is {}", o.train.steps),
                    "give a number from 1 to 10000000");
  if (o.sample.every > 0 && o.sample.steps < 1)
    throw bad_input("sample.steps", fmt::format("is {}", o.sample.steps), "give 1 or more");
  if (!o.memory.vram.empty()) parse_bytes("memory.vram", o.memory.vram);
  if (!o.memory.ram.empty()) parse_bytes("memory.ram", o.memory.ram);
  flow::check(o.train.timestep);
  optim::check(o.train.schedule);
  optim::fill_in(o.train.optimizer);
  if (o.train.optimizer.optimizer == "prodigy" && o.train.schedule.learning_rate < kLeastForProdigy)
    throw bad_input("train.learning_rate",
                    fmt::format("is {}, a factor of the rate that prodigy finds",
                                o.train.schedule.learning_rate),
                    "1 is usual with prodigy");
  if (o.lora.type != "lora" && starts_off_zero(o.lora))
    throw bad_input("lora.init",
                    "\"" + o.lora.init + "\" does not go with lora.type = \"" + o.lora.type + "\"",
                    "use kaiming or gaussian, or lora.type = \"lora\"");
  if (o.lora.text_encoder && starts_off_zero(o.lora))
    throw bad_input("lora.init", "\"" + o.lora.init + "\" does not go with lora.text_encoder",
                    "use kaiming or gaussian");
  if (o.train.optimizer.optimizer == "schedule_free" && o.train.schedule.schedule != "constant")
    throw bad_input("train.schedule", "schedule_free is there in place of a schedule",
                    "use constant, with train.warmup if you like");
}

/// Of what the model knows, far from any subject.
std::vector<std::string> neutral_prompts(const std::string& model_path) {
  if (is_builtin_model(model_path))
    return {"a red circle on the left on a plain green background",
            "a large blue star in the middle on a striped pink background",
            "a yellow heart at the top on a grey background",
            "a green square beside a purple moon on a white background"};
  return {"a portrait of a woman in a garden", "a dog running on a beach",
          "a city street at night in the rain", "a bowl of fruit on a wooden table"};
}

}  // namespace

int64_t default_text_tokens(const ModelFiles& model) {
  return flux::read_config(model.transformer).guidance_embed ? 512 : 256;
}

std::string sample_prompt(const std::string& prompt, const std::string& trigger) {
  static const std::string mark = "[trigger]";
  std::string text = prompt;
  for (size_t at = 0; (at = text.find(mark, at)) != std::string::npos; at += trigger.size())
    text.replace(at, mark.size(), trigger);
  return text;
}

void fill_in(RunOptions& o, const ModelFiles& model) {
  if (o.model.text_tokens == 0) o.model.text_tokens = default_text_tokens(model);
  if (o.model.text_tokens < 1 || o.model.text_tokens > kMostTextTokens)
    throw bad_input("model.text_tokens", fmt::format("is {}", o.model.text_tokens),
                    fmt::format("give a number from 1 to {}", kMostTextTokens));
  if (o.dataset.resolution == 0) o.dataset.resolution = eval::native_side(o.model.path, model);
  if (o.sample.width == 0) o.sample.width = o.dataset.resolution;
  if (o.sample.height == 0) o.sample.height = o.dataset.resolution;
  if (o.sample.prompts.empty())
    o.sample.prompts = o.subject.kind == "style"
                           ? std::vector<std::string>{"a house by a lake, [trigger]",
                                                      "a portrait of a woman, [trigger]"}
                           : std::vector<std::string>{"[trigger]", "[trigger] on a beach"};
  if (o.validate.prompts.empty()) o.validate.prompts = neutral_prompts(o.model.path);
  check_choices(o);
  const int64_t step = eval::size_step(model);
  eval::check_size("sample.width, sample.height",
                   {static_cast<int>(o.sample.width), static_cast<int>(o.sample.height)}, step);
  const auto check_side = [&](const std::string& where, int64_t side) {
    eval::check_size(where, {static_cast<int>(side), static_cast<int>(side)}, step);
  };
  check_side("dataset.resolution", o.dataset.resolution);
  if (o.dataset.buckets) check_side("dataset.bucket_step", o.dataset.bucket_step);
  for (const FolderOptions& folder : o.dataset.folders)
    for (const int64_t side : folder.resolutions) check_side(folder.path.string(), side);
}

}  // namespace fluxlora::train
