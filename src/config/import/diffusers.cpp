// SPDX-License-Identifier: Apache-2.0
// diffusers' DreamBooth scripts: examples/dreambooth/README_flux.md and
// examples/advanced_diffusion_training/README_flux.md say what their arguments mean.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "config/import/meanings.h"
#include "config/import/peers.h"

namespace fluxlora::config {

namespace fs = std::filesystem;

namespace {

/// The script gives all pictures one caption; it knows no word that would be put into others.
void set_folders(Translator& to) {
  auto& folders = to.options().dataset.folders;
  const Foreign* prompt = to.take("instance_prompt");
  if (prompt) to.set("subject.trigger", prompt->text(), *prompt);
  if (const Foreign* data = to.take("instance_data_dir")) {
    FolderOptions folder;
    folder.path = to.resolved(data->text());
    folder.trigger = "";
    folder.caption = prompt ? prompt->text() : "";
    folder.repeats = static_cast<int64_t>(std::clamp(to.number("repeats", 1), 1.0, 1000.0));
    folders.push_back(std::move(folder));
  }
  to.take("repeats");
  const Foreign* prior = to.take("with_prior_preservation");
  const Foreign* data = to.take("class_data_dir");
  const Foreign* caption = to.take("class_prompt");
  const double weight = to.number("prior_loss_weight", 1);
  if (!is_on(prior) || !data) return;
  FolderOptions folder;
  folder.path = to.resolved(data->text());
  folder.caption = caption ? caption->text() : "";
  folder.regularisation = true;
  folder.weight = weight;
  folders.push_back(std::move(folder));
}

/// The script's defaults are ours.
void set_prodigy(Translator& to) {
  const bool used = to.options().train.optimizer.optimizer == "prodigy";
  const std::pair<const char*, const char*> keys[] = {
      {"prodigy_use_bias_correction", "train.prodigy_bias_correction"},
      {"prodigy_safeguard_warmup", "train.prodigy_safeguard_warmup"},
      {"prodigy_decouple", nullptr}};
  for (const auto& [option, key] : keys) {
    const Foreign* given = to.take(option);
    if (!given) continue;
    if (!used)
      to.list(*given, Fate::elsewhere, "have no effect without the optimizer Prodigy");
    else if (key)
      to.set(key, given->is_off() ? "false" : "true", *given);
    else if (given->is_off())
      to.list(*given, Fate::lost, "decay the weights through the gradients, as Adam's first form");
  }
}

void set_learning(Translator& to) {
  Foreign name{"optimizer", {"AdamW"}, "diffusers' default"};
  if (const Foreign* given = to.take("optimizer")) name = *given;
  to.take("use_8bit_adam");
  if (to.flag("use_8bit_adam") && lower(name.text()) == "adamw")
    name = {"use_8bit_adam", {"AdamW8bit"}, name.where};
  set_optimizer(to, name, to.take("learning_rate"));
  set_prodigy(to);
  const std::pair<const char*, const char*> keys[] = {{"adam_beta1", "train.beta1"},
                                                      {"adam_beta2", "train.beta2"},
                                                      {"adam_epsilon", "train.eps"},
                                                      {"adam_weight_decay", "train.weight_decay"}};
  for (const auto& [option, key] : keys)
    if (const Foreign* given = to.take(option)) to.set(key, given->text(), *given);
  Foreign schedule{"lr_scheduler", {"constant"}, "diffusers' default"};
  const Foreign* given = to.take("lr_scheduler");
  const Foreign* warmup = to.take("lr_warmup_steps");
  // The script's own warm-up of 500 steps has no effect with its own schedule.
  const bool silent = !given || (warmup && warmup->where == "diffusers's default" &&
                                 lower(given->text()) == "constant");
  set_schedule(to, given ? *given : schedule, silent ? nullptr : warmup);
}

void set_targets(Translator& to) {
  const Foreign* layers = to.take("lora_layers");
  auto& targets = to.options().lora.targets;
  targets = {"diffusers"};
  if (layers) {
    targets.clear();
    std::string text = layers->text();
    std::erase(text, ' ');
    for (size_t at = 0; at <= text.size();) {  // PEFT: a module whose name ends with one of these
      const size_t end = std::min(text.find(',', at), text.size());
      if (end > at) targets.push_back("*." + text.substr(at, end - at));
      at = end + 1;
    }
  }
  to.result().origin["lora.targets"] = layers ? "lora_layers" : "train_dreambooth_lora_flux.py";
}

void set_steps(Translator& to) {
  if (const Foreign* steps = to.take("max_train_steps")) {
    to.set("train.steps", steps->text(), *steps);
    to.take("num_train_epochs");
  } else {
    const Foreign* epochs = to.take("num_train_epochs");
    set_steps_from_epochs(to, epochs ? *epochs : Foreign{"num_train_epochs", {"1"}, "diffusers"});
  }
  if (const Foreign* keep = to.take("checkpoints_total_limit"))
    to.set("output.keep", keep->text(), *keep);
}

void set_samples(Translator& to) {
  const Foreign* prompt = to.take("validation_prompt");
  Foreign epochs{"validation_epochs", {"50"}, "diffusers' default"};
  if (const Foreign* given = to.take("validation_epochs")) epochs = *given;
  if (!prompt) return to.set("sample.every", "0", {"validation_prompt", {}, "diffusers' default"});
  to.options().sample.prompts = {prompt->text()};
  to.result().origin["sample.prompts"] = prompt->name;
  const int64_t each = steps_per_epoch(to);
  if (each)
    to.set("sample.every", number_text(number_of(epochs) * static_cast<double>(each)), epochs);
  else
    to.list(epochs, Fate::lost, "count in epochs; the pictures are not there, set sample.every");
}

}  // namespace

Imported import_diffusers(const ForeignList& arguments, const fs::path& folder) {
  Translator to(peer_table("diffusers"), arguments, folder);
  if (const Foreign* model = to.take("pretrained_model_name_or_path")) set_model(to, *model);
  for (const char* name : {"train_batch_size", "gradient_accumulation_steps"})
    if (const Foreign* option = to.take(name))
      to.set(to.table().direct.at(name), option->text(), *option);
  for (const char* name : {"initializer_concept", "token_abstraction"})
    if (const Foreign* option = to.take(name))
      to.list(*option, Fate::lost, "name the new words that text encoders learn");
  set_folders(to);
  set_steps(to);
  set_learning(to);
  set_targets(to);
  if (const Foreign* dropout = to.take("lora_dropout")) {
    to.set("lora.dropout", dropout->text(), *dropout);
    if (!dropout->is_off()) to.set("lora.dropout_of", "input", *dropout);
  }
  // FLUX.1's own scheduler shifts only when it samples, so these times are not shifted.
  set_density(to, *to.take("weighting_scheme"), 1);
  set_samples(to);
  if (const Foreign* output = to.take("output_dir")) {
    const fs::path path = output->text();
    to.set("output.path", path.string(), *output);
    const std::string name =
        (path.filename().empty() ? path.parent_path() : path).filename().string();
    to.set("subject.name", name, *output);
  }
  to.finish();
  return to.result();
}

}  // namespace fluxlora::config
