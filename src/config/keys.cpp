// SPDX-License-Identifier: Apache-2.0
#include "config/keys.h"

#include <cmath>

#include <fmt/format.h>

namespace fluxlora::config {
namespace {

using train::RunOptions;

constexpr double kLargestCount = 100'000'000;  // of steps and the like
constexpr double kLargestSide = 8192;          // pixels

Limits at_least(double least, double most = std::numeric_limits<double>::infinity()) {
  return {.least = least, .most = most};
}
Limits above(double least) {
  return {.least = least, .above_least = true};
}
Limits side(bool zero_too) {
  return {.least = 16, .most = kLargestSide, .multiple = 16, .zero_too = zero_too};
}

#define AT(member) [](RunOptions& o) -> auto& { return o.member; }

/// A part of the model that a single file lacks, or that is to be taken from elsewhere.
RunKey part_key(const char* name, Member<RunOptions, std::filesystem::path> at,
                const char* meaning) {
  return {.table = "model",
          .name = name,
          .access = at,
          .meaning = meaning,
          .source = "own",
          .kind = Kind::path,
          .says = Says::origin,
          .absent = "that of `model.path`"};
}

std::vector<RunKey> model_keys() {
  return {
      {.table = "model",
       .name = "path",
       .access = AT(model.path),
       .meaning =
           "The model: a folder in diffusers' layout, a single file "
           "(`flux1-dev.safetensors`, fp8 files, checkpoints with all parts), or `tiny`, the "
           "built-in one",
       .kind = Kind::model,
       .says = Says::origin,
       .absent = "must be given"},
      part_key("vae", AT(model.vae), "The VAE: `ae.safetensors`, or a folder in diffusers' layout"),
      part_key("clip", AT(model.clip),
               "The CLIP text encoder: `clip_l.safetensors`, or a folder in diffusers' layout"),
      part_key("t5", AT(model.t5),
               "The T5 encoder: `t5xxl_fp16.safetensors` or an fp8 one, or a folder in diffusers' "
               "layout"),
      part_key("clip_tokenizer", AT(model.clip_tokenizer),
               "Folder with CLIP's `vocab.json` and `merges.txt`, or `tokenizer.json`"),
      part_key("t5_tokenizer", AT(model.t5_tokenizer), "Folder with T5's `spiece.model`"),
      {.table = "model",
       .name = "assistant_lora",
       .access = AT(model.assistant_lora),
       .meaning = "A frozen LoRA that is on while training and off in samples and in the result: a "
                  "training adapter, which keeps schnell's distillation whole",
       .source = "ai-toolkit",
       .kind = Kind::path,
       .says = Says::origin,
       .absent = "none"},
      {.table = "model",
       .name = "precision",
       .access = AT(model.precision),
       .meaning = "Format of the frozen weights; `auto` is f32 on the CPU",
       .source = "own",
       .choices = {"auto", "f32", "bf16", "fp8"},
       .later = {"int8", "nf4"}},
      {.table = "model",
       .name = "text_tokens",
       .access = AT(model.text_tokens),
       .meaning = "Length to which T5's token states are padded or cut",
       .source = "FLUX.1: 512, schnell 256",
       .unit = "tokens",
       .limits = {.least = 1, .most = 512, .zero_too = true},
       .absent = "0: the model's own"},
      {.table = "subject",
       .name = "name",
       .access = AT(subject.name),
       .meaning = "Name of the run, its folder and its LoRA file",
       .source = "own",
       .kind = Kind::name},
      {.table = "subject",
       .name = "trigger",
       .access = AT(subject.trigger),
       .meaning = "The word that calls the subject or style; it is put into every caption",
       .kind = Kind::word,
       .absent = "must be given"},
      {.table = "subject",
       .name = "kind",
       .access = AT(subject.kind),
       .meaning = "What is learnt: a thing, person or animal, or a style",
       .source = "own",
       .choices = {"subject", "style"}},
  };
}

std::vector<RunKey> dataset_keys() {
  return {
      {.table = "dataset",
       .name = "path",
       .access = Member<RunOptions, std::string>(nullptr),
       .meaning = "The folder of pictures, with a `.txt` caption beside each; short for one "
                  "`[[dataset.folders]]`",
       .kind = Kind::folder,
       .absent = "must be given, unless there are `[[dataset.folders]]`"},
      {.table = "dataset",
       .name = "resolution",
       .access = AT(dataset.resolution),
       .meaning = "Side of the square that pictures are cropped and resized to",
       .source = "FLUX.1: 1024, built-in model: 128",
       .unit = "pixels",
       .limits = side(true),
       .absent = "0: the model's own"},
      {.table = "dataset",
       .name = "max_upscale",
       .access = AT(dataset.max_upscale),
       .meaning = "A picture that would have to be enlarged more than this is refused",
       .source = "own",
       .unit = "times",
       .limits = at_least(1)},
      {.table = "dataset",
       .name = "cache",
       .access = AT(dataset.cache),
       .meaning = "Folder in which latents and text states are kept",
       .source = "XDG base directories",
       .kind = Kind::path,
       .says = Says::place,
       .absent = "`$XDG_CACHE_HOME/fluxlora` or `~/.cache/fluxlora`"},
  };
}

std::vector<RunKey> lora_keys() {
  return {
      {.table = "lora",
       .name = "rank",
       .access = AT(lora.rank),
       .meaning = "Rank of the adapters: how much they can learn, and how large the file is",
       .source = "common for subjects",
       .limits = at_least(1, 4096)},
      {.table = "lora",
       .name = "alpha",
       .access = AT(lora.alpha),
       .meaning = "The adapters' change is multiplied by alpha / rank",
       .source = "equal to the rank: factor 1 for every reader",
       .limits = above(0)},
      {.table = "lora",
       .name = "targets",
       .access = AT(lora.targets),
       .meaning = "Layers with an adapter: one of the sets `default`, `kohya`, `ai-toolkit`, "
                  "`diffusers`, or patterns over module names such as `*.attn.to_q`",
       .source = "every linear layer of attention and feed-forward"},
      {.table = "lora",
       .name = "init",
       .access = AT(lora.init),
       .meaning = "Start of A: `kaiming` U(-1/sqrt(in), 1/sqrt(in)) or `gaussian` N(0, 1/rank²); "
                  "B starts at 0",
       .source = "PEFT",
       .choices = {"kaiming", "gaussian"}},
  };
}

std::vector<RunKey> train_keys() {
  return {
      {.table = "train",
       .name = "steps",
       .access = AT(train.steps),
       .meaning = "Updates of the adapters",
       .source = "common for 10 to 30 pictures",
       .unit = "steps",
       .limits = at_least(1, kLargestCount)},
      {.table = "train",
       .name = "batch_size",
       .access = AT(train.batch_size),
       .meaning = "Pictures that go through the model together",
       .source = "own",
       .unit = "pictures",
       .limits = at_least(1, 1024)},
      {.table = "train",
       .name = "accumulation",
       .access = AT(train.accumulation),
       .meaning = "Batches whose gradients are averaged into one update",
       .source = "own",
       .unit = "batches",
       .limits = at_least(1, 100'000)},
      {.table = "train",
       .name = "learning_rate",
       .access = AT(train.schedule.learning_rate),
       .meaning = "Size of an update",
       .source = "diffusers' FLUX script, kohya",
       .limits = above(0)},
      {.table = "train",
       .name = "schedule",
       .access = AT(train.schedule.schedule),
       .meaning = "The rate after the warm-up: constant, or a half cosine down to 0",
       .source = "own",
       .choices = {"constant", "cosine"}},
      {.table = "train",
       .name = "warmup",
       .access = AT(train.schedule.warmup),
       .meaning = "Steps over which the rate rises to its full size",
       .source = "own",
       .unit = "steps",
       .limits = at_least(0, kLargestCount)},
      {.table = "train",
       .name = "seed",
       .access = AT(train.seed),
       .meaning = "Of everything random: start, order, noise, times. Equal seeds give equal files",
       .source = "own",
       .limits = at_least(0)},
      {.table = "train",
       .name = "guidance",
       .access = AT(train.guidance),
       .meaning = "Guidance value that is fed to the model while it trains",
       .source = "ai-toolkit; kohya's advice for FLUX.1-dev",
       .limits = at_least(0)},
      {.table = "train",
       .name = "caption_dropout",
       .access = AT(train.caption_dropout),
       .meaning = "Share of pictures that are trained with the empty caption",
       .source = "ai-toolkit",
       .limits = at_least(0, 1)},
  };
}

std::vector<RunKey> optimizer_keys() {
  return {
      {.table = "train",
       .name = "optimizer",
       .access = AT(train.optimizer.optimizer),
       .meaning = "How gradients become updates",
       .source = "Loshchilov and Hutter 2019",
       .choices = {"adamw"},
       .later = {"adamw8bit", "adafactor", "lion", "prodigy"}},
      {.table = "train",
       .name = "beta1",
       .access = AT(train.optimizer.beta1),
       .meaning = "AdamW: memory of the mean of the gradients",
       .source = "Kingma and Ba 2015",
       .limits = {.least = 0, .most = 1, .below_most = true}},
      {.table = "train",
       .name = "beta2",
       .access = AT(train.optimizer.beta2),
       .meaning = "AdamW: memory of the mean of their squares",
       .source = "Kingma and Ba 2015",
       .limits = {.least = 0, .most = 1, .below_most = true}},
      {.table = "train",
       .name = "eps",
       .access = AT(train.optimizer.eps),
       .meaning = "AdamW: added to the root of that mean",
       .source = "Kingma and Ba 2015",
       .limits = above(0)},
      {.table = "train",
       .name = "weight_decay",
       .access = AT(train.optimizer.weight_decay),
       .meaning = "AdamW: share of a parameter, times the rate, that it loses in a step",
       .source = "PyTorch",
       .limits = at_least(0)},
      {.table = "train",
       .name = "max_grad_norm",
       .access = AT(train.optimizer.max_grad_norm),
       .meaning = "Gradients whose norm is larger are scaled down to it; 0 means never",
       .source = "diffusers' FLUX script, kohya",
       .limits = at_least(0)},
      {.table = "train",
       .name = "timestep_sampling",
       .access = AT(train.timestep.sampling),
       .meaning = "Which flow times t are trained: `uniform`; `sigmoid` σ(scale n); `logit_normal` "
                  "σ(mean + std n); `shift`: sigmoid, then shifted; `flux_shift`: shifted as the "
                  "picture's size asks (n is normal)",
       .source = "ai-toolkit; Esser et al. 2024",
       .choices = {"uniform", "sigmoid", "logit_normal", "shift", "flux_shift"}},
      {.table = "train",
       .name = "sigmoid_scale",
       .access = AT(train.timestep.sigmoid_scale),
       .meaning = "Scale of `sigmoid`, `shift` and `flux_shift`: larger means more of both ends",
       .source = "kohya",
       .limits = above(0)},
      {.table = "train",
       .name = "logit_mean",
       .access = AT(train.timestep.logit_mean),
       .meaning = "Mean of `logit_normal`: above 0 means more noise",
       .source = "Esser et al. 2024"},
      {.table = "train",
       .name = "logit_std",
       .access = AT(train.timestep.logit_std),
       .meaning = "Spread of `logit_normal`",
       .source = "Esser et al. 2024",
       .limits = above(0)},
      {.table = "train",
       .name = "timestep_shift",
       .access = AT(train.timestep.shift),
       .meaning = "Factor F of `shift`: t becomes F t / (1 + (F - 1) t)",
       .source = "FLUX.1 at 1024x1024: e^1.15",
       .limits = above(0)},
  };
}

std::vector<RunKey> sample_keys() {
  return {
      {.table = "sample",
       .name = "every",
       .access = AT(sample.every),
       .meaning = "Steps between sample pictures, which also come before and after; 0: never",
       .source = "own",
       .unit = "steps",
       .limits = at_least(0, kLargestCount)},
      {.table = "sample",
       .name = "prompts",
       .access = AT(sample.prompts),
       .meaning = "What they show; `[trigger]` stands for the trigger word",
       .source = "own",
       .absent = "two prompts of our own"},
      {.table = "sample",
       .name = "seed",
       .access = AT(sample.seed),
       .meaning = "Prompt i starts from the noise of seed + i, each time the same",
       .source = "own",
       .limits = at_least(0)},
      {.table = "sample",
       .name = "steps",
       .access = AT(sample.steps),
       .meaning = "Steps of the sampler",
       .source = "diffusers' FluxPipeline",
       .unit = "steps",
       .limits = at_least(1, 1000)},
      {.table = "sample",
       .name = "guidance",
       .access = AT(sample.guidance),
       .meaning = "Guidance value that is fed to the model while it samples",
       .source = "diffusers' FluxPipeline",
       .limits = at_least(0)},
      {.table = "sample",
       .name = "width",
       .access = AT(sample.width),
       .meaning = "Width of the pictures",
       .source = "own",
       .unit = "pixels",
       .limits = side(true),
       .absent = "0: the training resolution"},
      {.table = "sample",
       .name = "height",
       .access = AT(sample.height),
       .meaning = "Height of the pictures",
       .source = "own",
       .unit = "pixels",
       .limits = side(true),
       .absent = "0: the training resolution"},
  };
}

std::vector<RunKey> output_keys() {
  return {
      {.table = "output",
       .name = "path",
       .access = AT(output.path),
       .meaning = "The run's folder, relative to the working directory",
       .source = "own",
       .kind = Kind::out_path,
       .says = Says::place,
       .absent = "`runs/` and subject.name"},
      {.table = "output",
       .name = "checkpoint_every",
       .access = AT(output.checkpoint_every),
       .meaning = "Steps between checkpoints; 0: only at the end",
       .source = "own",
       .unit = "steps",
       .limits = at_least(0, kLargestCount)},
      {.table = "output",
       .name = "keep",
       .access = AT(output.keep),
       .meaning = "How many of the last checkpoints stay",
       .source = "own",
       .unit = "checkpoints",
       .limits = at_least(1, kLargestCount)},
      {.table = "output",
       .name = "format",
       .access = AT(output.format),
       .meaning = "Layout of the LoRA file; diffusers' is read by ComfyUI too",
       .source = "own",
       .choices = {"diffusers"},
       .later = {"kohya", "comfyui", "ai-toolkit"}},
      {.table = "output",
       .name = "dtype",
       .access = AT(output.dtype),
       .meaning = "Format of its numbers",
       .source = "own",
       .choices = {"f32", "bf16", "f16"}},
      {.table = "output",
       .name = "metadata_dates",
       .access = AT(output.metadata_dates),
       .meaning = "Record in the file when the run first started; equal runs then differ",
       .source = "own"},
  };
}

#undef AT

template <typename T>
void append(std::vector<T>& all, std::vector<T> more) {
  for (T& one : more) all.push_back(std::move(one));
}

}  // namespace

std::string describe(const Limits& limits) {
  std::string text;
  if (limits.multiple > 1) text = fmt::format("a multiple of {}", limits.multiple);
  const auto add = [&](const std::string& more) { text += (text.empty() ? "" : " ") + more; };
  const bool least = std::isfinite(limits.least), most = std::isfinite(limits.most);
  if (least && limits.above_least) add(fmt::format("above {}", limits.least));
  if (least && !limits.above_least)
    add(most ? fmt::format("from {}", limits.least) : fmt::format("{} or more", limits.least));
  if (most && limits.below_most) add(fmt::format("to below {}", limits.most));
  if (most && !limits.below_most) add(fmt::format("to {:.0f}", limits.most));
  if (limits.zero_too) text += ", or 0";
  return text;
}

bool within(const Limits& limits, double value) {
  if (!std::isfinite(value)) return false;
  if (limits.zero_too && value == 0) return true;
  if (value < limits.least || (limits.above_least && value == limits.least)) return false;
  if (value > limits.most || (limits.below_most && value == limits.most)) return false;
  return limits.multiple == 1 || std::fmod(value, static_cast<double>(limits.multiple)) == 0;
}

std::span<const RunKey> run_keys() {
  static const std::vector<RunKey> keys = [] {
    std::vector<RunKey> all = model_keys();
    append(all, dataset_keys());
    append(all, lora_keys());
    append(all, train_keys());
    append(all, optimizer_keys());
    append(all, sample_keys());
    append(all, output_keys());
    return all;
  }();
  return keys;
}

#define AT(member) [](FolderOptions& o) -> auto& { return o.member; }

std::span<const FolderKey> folder_keys() {
  static const std::string table = "dataset.folders";
  static const std::vector<FolderKey> keys{
      {.table = table,
       .name = "path",
       .access = AT(path),
       .meaning = "The folder of pictures",
       .kind = Kind::path,
       .says = Says::origin,
       .absent = "must be given"},
      {.table = table,
       .name = "repeats",
       .access = AT(repeats),
       .meaning = "How often each of its pictures comes in an epoch",
       .source = "own",
       .unit = "times",
       .limits = at_least(1, 100'000)},
      {.table = table,
       .name = "trigger",
       .access = AT(trigger),
       .meaning = "Trigger word of its captions instead of subject.trigger; empty: none",
       .source = "own",
       .absent = "subject.trigger"},
      {.table = table,
       .name = "caption",
       .access = AT(caption),
       .meaning = "Caption of pictures that have no `.txt` file",
       .source = "own",
       .absent = "the trigger word alone"},
      {.table = table,
       .name = "regularisation",
       .access = AT(regularisation),
       .meaning = "Pictures of other things, trained without the trigger word to keep the model "
                  "as it is",
       .source = "Ruiz et al. 2023 (prior preservation)"},
      {.table = table,
       .name = "weight",
       .access = AT(weight),
       .meaning = "Multiplies the loss of its pictures",
       .source = "own",
       .limits = above(0)},
      {.table = table,
       .name = "resolutions",
       .access = AT(resolutions),
       .meaning = "Each picture is trained at each of these sides",
       .source = "own",
       .unit = "pixels",
       .limits = side(false),
       .absent = "dataset.resolution"},
  };
  return keys;
}

#undef AT

std::span<const Table> tables() {
  static const std::vector<Table> all{
      {"model", "What is taught."},
      {"subject", "What it learns."},
      {"dataset", "From which pictures."},
      {"lora", "The adapter."},
      {"train", "How it learns."},
      {"sample", "Pictures on the way, each time from the same prompts and noise."},
      {"output", "What is left."},
  };
  return all;
}

std::span<const std::string> later_names() {
  static const std::vector<std::string> names{"memory", "validate", "dataset.folders.mask",
                                              "train.deterministic"};
  return names;
}

}  // namespace fluxlora::config
