// SPDX-License-Identifier: Apache-2.0
// ai-toolkit: config/examples/*.yaml and toolkit/config_modules.py of ostris/ai-toolkit say what
// its keys mean. Names are those below config.process[0].
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "config/import/meanings.h"
#include "config/import/peers.h"

namespace fluxlora::config {

namespace fs = std::filesystem;

namespace {

using Branch = ForeignTree::Branch;

constexpr double kLogisticScale = 1.702;  // meanings.h, set_density

std::vector<Branch> branches_named(const Branch& in, const std::string& name) {
  std::vector<Branch> found;
  for (const Branch& branch : in.branches)
    if (branch.name == name) found.push_back(branch);
  return found;
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
}

/// The first process with the job's name in it; "[name]" stands for it.
Branch first_process(const Branch& root, const fs::path& path) {
  const std::vector<Branch> processes = branches_named(root, "config.process");
  if (processes.empty())
    throw bad_input(path.string(), "has no config.process",
                    "give an ai-toolkit training: job, config, process");
  Branch process = processes.front();
  const Foreign* type = find_option(process.options, "type");
  const std::string kind = type ? type->text() : "";
  if (kind != "sd_trainer" && kind != "diffusion_trainer" && kind != "ui_trainer")
    throw bad_input(type ? type->where : path.string(), fmt::format("the process is \"{}\"", kind),
                    "only trainings (sd_trainer) have a counterpart");
  std::erase_if(process.options, [](const Foreign& option) { return option.name == "type"; });
  const Foreign* name = find_option(root.options, "config.name");
  if (name && !find_option(process.options, "name"))
    process.options.push_back({"name", name->values, name->where});
  if (name)
    for (Foreign& option : process.options)
      for (std::string& value : option.values) replace_all(value, "[name]", name->text());
  return process;
}

void refuse_other_models(Translator& to, const fs::path& path) {
  const Foreign* arch = to.take("model.arch");
  if (arch && arch->text() != "flux")
    throw bad_input(arch->where, fmt::format("model.arch is {}", arch->text()),
                    "fluxlora trains FLUX.1 alone");
  if (!arch && !to.flag("model.is_flux"))
    throw bad_input(path.string(), "does not say that its model is FLUX.1",
                    "fluxlora trains FLUX.1 alone; if it is, set model.is_flux: true");
  to.take("model.is_flux");
  const Foreign* type = to.take("network.type");
  if (type && lower(type->text()) != "lora")
    throw bad_input(type->where, fmt::format("network.type is {}", type->text()),
                    "only lora has a counterpart");
}

void set_model_keys(Translator& to) {
  if (const Foreign* model = to.take("model.name_or_path")) set_model(to, *model);
  if (const Foreign* vae = to.take("model.vae_path")) to.set_path("model.vae", *vae);
  const Foreign* quantize = to.take("model.quantize");
  const Foreign* type = to.take("model.qtype");
  if (!is_on(quantize)) return;
  if (!type || type->text() == "qfloat8" || type->text() == "float8")
    to.set("model.precision", "fp8", *quantize);
  else
    to.list(*type, Fate::done, "keep the frozen weights in this format; set model.precision");
}

void set_network(Translator& to) {
  const Foreign* rank = to.take("network.rank");
  if (!rank) rank = to.take("network.linear");
  to.take("network.linear");
  to.set("lora.rank", rank->text(), *rank);
  const Foreign* alpha = to.take("network.linear_alpha");
  if (!alpha) alpha = to.take("network.alpha");
  to.set("lora.alpha", alpha->text(), *alpha);
  to.options().lora.targets = {"ai-toolkit"};
  to.result().origin["lora.targets"] = "network";
}

void list_network_arguments(Translator& to, const ForeignList& options) {
  for (const Foreign& option : options) {
    static const std::string prefix = "network.network_kwargs.";
    if (!option.name.starts_with(prefix) || option.is_off()) continue;
    const bool layers = option.name.find("_if_contains") != std::string::npos;
    to.list(
        option, Fate::lost,
        layers ? "choose layers by their names; fluxlora has lora.targets" : "shape the network");
  }
}

// ---- pictures -----------------------------------------------------------------------------------

FolderOptions folder_of(Translator& to, const Branch& dataset) {
  const auto text = [&](const char* name) {
    const Foreign* option = find_option(dataset.options, name);
    return option ? option->text() : "";
  };
  FolderOptions folder;
  folder.path =
      to.resolved(text("folder_path").empty() ? text("dataset_path") : text("folder_path"));
  folder.caption = text("default_caption");
  if (!text("trigger_word").empty()) folder.trigger = text("trigger_word");
  folder.regularisation = is_on(find_option(dataset.options, "is_reg"));
  if (const Foreign* repeats = find_option(dataset.options, "num_repeats")) {
    const double value = number_of(*repeats);
    if (!(value >= 1) || !(value <= 1000))
      throw bad_input(repeats->where, fmt::format("num_repeats is {}", repeats->text()),
                      "give a number from 1 to 1000");
    folder.repeats = std::llround(value);
  }
  if (const Foreign* weight = find_option(dataset.options, "loss_multiplier"))
    folder.weight = number_of(*weight);
  if (!text("mask_path").empty()) folder.mask = to.resolved(text("mask_path"));
  // It adds mirrored copies of all pictures: as often as half of the time.
  folder.flip = is_on(find_option(dataset.options, "flip_x"));
  folder.alpha_mask = is_on(find_option(dataset.options, "alpha_mask"));
  if (const Foreign* least = find_option(dataset.options, "mask_min_value"))
    folder.unmasked_weight = std::clamp(number_of(*least), 0.0, 0.999);
  if (folder.regularisation) folder.weight *= to.number("train.reg_weight", 1);
  return folder;
}

std::vector<int64_t> sides_of(const Foreign& resolution) {
  std::vector<int64_t> sides;
  for (const std::string& value : resolution.values) {
    const double side = number_of({"datasets.resolution", {value}, resolution.where});
    if (!(side >= 1) || !(side < 1e5))
      throw bad_input(resolution.where, fmt::format("resolution is {}", value),
                      "give a number of pixels");
    sides.push_back(std::llround(side));
  }
  return sides;
}

void set_folders(Translator& to, const Branch& process) {
  std::vector<std::vector<int64_t>> sides;
  Foreign resolution = *to.take("datasets.resolution");
  Foreign dropout = *to.take("datasets.caption_dropout_rate");
  const std::vector<Branch> datasets = branches_named(process, "datasets");
  for (const Branch& dataset : datasets) {
    to.options().dataset.folders.push_back(folder_of(to, dataset));
    const Foreign* own = find_option(dataset.options, "resolution");
    if (own && sides.empty()) resolution = *own;
    sides.push_back(sides_of(own ? *own : *to.take("datasets.resolution")));
    to.list_rest(dataset.options, "datasets.");
    for (const char* name : {"caption_ext", "caption_type"}) {
      const Foreign* ending = find_option(dataset.options, name);
      if (ending && ending->text() != "txt" && ending->text() != ".txt")
        to.list(*ending, Fate::lost,
                "read captions from files with this ending; fluxlora reads .txt");
    }
    const Foreign* rate = find_option(dataset.options, "caption_dropout_rate");
    if (rate && &dataset == &datasets.front()) dropout = *rate;
    if (rate && rate->text() != dropout.text())
      to.list(*rate, Fate::lost, "hold for one folder; the first folder's holds for all");
  }
  if (datasets.empty()) return;
  to.set("train.caption_dropout", dropout.text(), dropout);
  const Foreign* buckets = find_option(datasets.front().options, "buckets");
  const Foreign standard{"datasets.buckets", {"true"}, "ai-toolkit's default"};
  to.set("dataset.buckets", is_on(buckets ? buckets : &standard) ? "true" : "false",
         buckets ? *buckets : standard);
  if (const Foreign* step = find_option(datasets.front().options, "bucket_tolerance"))
    to.set("dataset.bucket_step", step->text(), *step);
  set_resolutions(to, sides, resolution);
  if (const Foreign* trigger = to.take("trigger_word"))
    to.set("subject.trigger", trigger->text(), *trigger);
  else if (const Foreign* name = to.take("name")) {
    to.set("subject.trigger", name->text(), *name);
    for (FolderOptions& folder : to.options().dataset.folders)
      if (!folder.trigger) folder.trigger = "";  // no word is put into captions
  }
}

// ---- training -----------------------------------------------------------------------------------

void set_times(Translator& to) {
  const Foreign* type = to.take("train.timestep_type");
  const std::string name = type ? type->text() : "sigmoid";
  const Foreign from =
      type ? *type : Foreign{"train.timestep_type", {name}, "ai-toolkit's default"};
  if (name == "sigmoid") {
    to.set("train.timestep_sampling", "sigmoid", from);
  } else if (name == "shift" || name == "flux_shift") {
    to.set("train.timestep_sampling", "flux_shift", from);
    to.set("train.sigmoid_scale", number_text(kLogisticScale), from);
  } else {
    if (name != "linear")
      to.list(from, Fate::lost, "draw or weight the times in this way; they are drawn evenly");
    to.set("train.timestep_sampling", "uniform", from);
  }
  for (const char* weights : {"train.linear_timesteps", "train.linear_timesteps2"})
    if (to.flag(weights))
      to.list({weights, {}, ""}, Fate::lost, "weight the loss by a bell curve over the times");
  const Foreign* bias = to.take("train.content_or_style");
  if (bias && bias->text() != "balanced")
    to.list(*bias, Fate::lost, "draw more times of much noise (content) or little (style)");
}

/// Its gradient_accumulation_steps counts every batch as a step: updates are fewer.
void set_steps(Translator& to) {
  double batches = 1;
  if (const Foreign* option = to.take("train.gradient_accumulation_steps")) {
    batches = std::max(1.0, number_of(*option));
    if (batches > 1) to.set("train.accumulation", number_text(batches), *option);
  }
  if (const Foreign* option = to.take("train.gradient_accumulation"); is_on(option))
    if (number_of(*option) > 1) to.set("train.accumulation", option->text(), *option);
  const std::pair<const char*, const char*> counts[] = {
      {"train.steps", "train.steps"},
      {"save.save_every", "output.checkpoint_every"},
      {"sample.sample_every", "sample.every"}};
  for (const auto& [option, key] : counts) {
    const Foreign& count = *to.take(option);
    to.set(key, number_text(std::ceil(number_of(count) / batches)), count);
  }
  if (to.flag("train.disable_sampling"))
    to.set("sample.every", "0", {"train.disable_sampling", {}, ""});
}

void set_learning(Translator& to, const ForeignList& options) {
  const Foreign* rate = to.take("train.unet_lr");
  if (!rate) rate = to.take("train.lr");
  to.take("train.lr");
  const Foreign* optimizer = to.take("train.optimizer");
  const Foreign standard{"train.optimizer", {"adamw"}, "ai-toolkit's default"};
  to.set("train.eps", "1e-6", optimizer ? *optimizer : standard);  // toolkit/optimizer.py
  set_optimizer(to, optimizer ? *optimizer : standard, rate);
  ForeignList arguments;
  static const std::string prefix = "train.optimizer_params.";
  for (Foreign option : options) {
    if (!option.name.starts_with(prefix)) continue;
    option.name = option.name.substr(prefix.size());
    arguments.push_back(std::move(option));
  }
  set_optimizer_arguments(to, arguments, prefix);
  const Foreign* decay = to.take("train.ema_config.ema_decay");
  if (const Foreign* average = to.take("train.ema_config.use_ema"); is_on(average))
    to.set("train.ema", decay ? decay->text() : "0.999", decay ? *decay : *average);
  if (const Foreign* schedule = to.take("train.lr_scheduler")) set_schedule(to, *schedule, nullptr);
  for (const Foreign& option : options)
    if (option.name.starts_with("train.lr_scheduler_params."))
      to.list(option, Fate::lost, "shape the learning rate's curve");
  const Foreign* scheduler = to.take("train.noise_scheduler");
  if (scheduler && scheduler->text() != "flowmatch")
    to.list(*scheduler, Fate::lost, "add noise as another model wants it; FLUX.1 is flowmatch");
}

void set_samples(Translator& to, const Branch& process) {
  std::vector<std::string> prompts;
  if (const Foreign* list = to.take("sample.prompts")) prompts = list->values;
  for (const Branch& sample : branches_named(process, "sample.samples")) {
    const Foreign* prompt = find_option(sample.options, "prompt");
    if (prompt) prompts.push_back(prompt->text());
    to.list_rest(sample.options, "sample.samples.");
  }
  to.options().sample.prompts = prompts;
  if (!prompts.empty()) to.result().origin["sample.prompts"] = "sample.prompts";
  const Foreign* walk = to.take("sample.walk_seed");
  if (prompts.size() > 1 && !is_on(walk))
    to.list({"sample.walk_seed", {"false"}, ""}, Fate::lost,
            "start all prompts from the same noise; prompt i gets seed + i");
}

void set_saving(Translator& to) {
  const Foreign& type = *to.take("save.dtype");
  const std::string name = lower(type.text());
  const bool half = name == "float16" || name == "fp16" || name == "f16";
  to.set("output.dtype",
         half                                   ? "f16"
         : name == "bf16" || name == "bfloat16" ? "bf16"
                                                : "f32",
         type);
  const Foreign* folder = to.take("training_folder");
  if (folder)
    to.set("output.path", (fs::path(folder->text()) / to.text("name", "my_lora")).string(),
           *folder);
  if (const Foreign* seed = to.take("training_seed")) to.set("train.seed", seed->text(), *seed);
}

}  // namespace

Imported import_ai_toolkit(const fs::path& path) {
  const ForeignTree tree = read_foreign_yaml(path);
  const Branch process = first_process(tree.root, path);
  ForeignList options = process.options;
  std::erase_if(options, [](const Foreign& option) {
    return option.name.starts_with("network.network_kwargs.") ||
           option.name.starts_with("train.optimizer_params.") ||
           option.name.starts_with("train.lr_scheduler_params.");
  });
  Translator to(peer_table("ai-toolkit"), options, path.parent_path());
  refuse_other_models(to, path);
  set_model_keys(to);
  set_network(to);
  list_network_arguments(to, process.options);
  set_folders(to, process);
  set_steps(to);
  set_learning(to, process.options);
  set_times(to);
  set_samples(to, process);
  set_saving(to);
  to.finish();
  if (branches_named(tree.root, "config.process").size() > 1)
    to.list({"config.process[1]", {}, path.string()}, Fate::lost, "run after the first process");
  return to.result();
}

}  // namespace fluxlora::config
