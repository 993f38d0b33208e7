// SPDX-License-Identifier: Apache-2.0
#include "config/import/meanings.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <regex>
#include <set>

#include <fmt/format.h>

#include "config/keys.h"
#include "data/dataset.h"

namespace fluxlora::config {

namespace fs = std::filesystem;

namespace {

constexpr double kLogisticScale = 1.702;  // of a normal draw that stands for a logistic one
constexpr double kLargestOwnRate = 0.05;  // above it only self-tuning optimizers work
constexpr const char* kUsualRate = "1e-4";

bool has_choice(const std::string& full, const std::string& word) {
  for (const RunKey& key : run_keys())
    if (key.full() == full)
      return std::find(key.choices.begin(), key.choices.end(), word) != key.choices.end();
  return false;
}

/// "PagedAdamW8bit" -> "adamw", with whether it keeps its state in eight bits.
std::string plain_optimizer(std::string name, bool& eight_bits) {
  name = lower(name.substr(name.rfind('.') == std::string::npos ? 0 : name.rfind('.') + 1));
  std::erase_if(name, [](char c) { return c == '_' || c == '-'; });
  eight_bits = name.find('8') != std::string::npos;
  name = std::regex_replace(name, std::regex("^paged|8bit$|8$|32bit$"), "");
  return name == "adam" ? "adamw" : name;
}

/// The key for an argument of Prodigy's or Adafactor's constructor; "" where there is none.
std::string key_of_argument(const std::string& optimizer, const std::string& argument) {
  static const std::map<std::pair<std::string, std::string>, std::string> keys = {
      {{"prodigy", "d0"}, "train.prodigy_d0"},
      {{"prodigy", "d_coef"}, "train.prodigy_d_coef"},
      {{"prodigy", "use_bias_correction"}, "train.prodigy_bias_correction"},
      {{"prodigy", "safeguard_warmup"}, "train.prodigy_safeguard_warmup"},
      {{"adafactor", "relative_step"}, "train.adafactor_relative"}};
  const auto found = keys.find({optimizer, argument});
  return found == keys.end() ? "" : found->second;
}

/// Whether our optimizer always does what the argument asks for (docs/training.md).
bool is_how_it_is(Translator& to, const std::string& argument, bool on) {
  const auto& ours = to.options().train.optimizer;
  if (ours.optimizer == "prodigy") return argument == "decouple" && on;
  if (ours.optimizer != "adafactor") return false;
  return argument == "scale_parameter" ? on == ours.relative_step
                                       : argument == "warmup_init" && !on;
}

}  // namespace

void set_optimizer(Translator& to, const Foreign& optimizer, const Foreign* rate) {
  bool eight_bits = false;
  std::string name = plain_optimizer(optimizer.text(), eight_bits);
  const bool known = has_choice("train.optimizer", name);
  if (!known) {
    to.list(optimizer, Fate::lost, "train with this optimizer; AdamW is used");
    name = "adamw";
  } else if (eight_bits && has_choice("train.optimizer", name + "8bit")) {
    name += "8bit";
  } else if (eight_bits) {
    to.list(optimizer, Fate::done, "keep the optimizer's state in eight bits; f32 is used");
  }
  to.set("train.optimizer", name, optimizer);
  if (!rate) return;
  if (!known && number_of(*rate) > kLargestOwnRate) {
    to.list(*rate, Fate::lost,
            fmt::format("scale what its optimizer finds; AdamW gets {}", kUsualRate));
    to.set("train.learning_rate", kUsualRate, *rate);
    return;
  }
  to.set("train.learning_rate", rate->text(), *rate);
}

void set_optimizer_arguments(Translator& to, const ForeignList& arguments,
                             const std::string& prefix) {
  const std::string optimizer = to.options().train.optimizer.optimizer;
  if (optimizer == "prodigy")
    for (const char* key : {"train.prodigy_bias_correction", "train.prodigy_safeguard_warmup"})
      to.set(key, "false", {prefix + "*", {}, "prodigyopt's default"});
  for (Foreign argument : arguments) {
    const std::string name = argument.name;
    argument.name = prefix + name;
    if (name == "weight_decay" || name == "eps") {
      to.set("train." + name, argument.text(), argument);
    } else if (name == "betas") {
      static const std::regex pair(R"(\W*([\d.]+)[,\s]+([\d.]+)\W*)");
      std::smatch found;
      const std::string text = argument.text();
      if (!std::regex_match(text, found, pair))
        throw bad_input(argument.where, fmt::format("{} is \"{}\"", argument.name, text),
                        "give two numbers, such as 0.9,0.99");
      to.set("train.beta1", found[1], argument);
      to.set("train.beta2", found[2], argument);
    } else if (const std::string key = key_of_argument(optimizer, name); !key.empty()) {
      const bool yes_or_no = name != "d0" && name != "d_coef";
      to.set(key, !yes_or_no ? argument.text() : argument.is_off() ? "false" : "true", argument);
    } else if (!is_how_it_is(to, name, !argument.is_off())) {
      to.list(argument, Fate::lost, "shape the optimizer");
    }
  }
}

void set_schedule(Translator& to, const Foreign& schedule, const Foreign* warmup) {
  const std::string name = lower(schedule.text());
  const bool constant = name == "constant" || name == "constant_with_warmup";
  if (!constant && name != "cosine")
    to.list(schedule, Fate::lost, "lower the learning rate in this way; it stays constant");
  to.set("train.schedule", name == "cosine" ? "cosine" : "constant", schedule);
  if (!is_on(warmup)) return;
  if (name == "constant") {  // get_scheduler hands it no warm-up
    to.list(*warmup, Fate::elsewhere, "have no effect with the schedule constant");
    return;
  }
  const double value = number_of(*warmup);
  const double steps =
      value < 1 ? std::floor(value * static_cast<double>(to.options().train.steps)) : value;
  to.set("train.warmup", number_text(steps), *warmup);
}

void set_density(Translator& to, const Foreign& scheme, double shift) {
  const std::string name = lower(scheme.text());
  if (name == "logit_normal") {
    const double mean = to.number("logit_mean", 0), std = to.number("logit_std", 1);
    to.set("train.timestep_sampling", "logit_normal", scheme);
    to.set("train.logit_mean", number_text(std::log(shift) - mean), scheme);
    to.set("train.logit_std", number_text(std), scheme);
    return;
  }
  if (name != "none" && name != "uniform")
    to.list(scheme, Fate::lost,
            name == "mode" ? "draw more of the middle times; they are drawn evenly"
                           : "weight the loss by the time; all times weigh the same");
  if (shift == 1) {
    to.set("train.timestep_sampling", "uniform", scheme);
    return;
  }
  to.set("train.timestep_sampling", "shift", scheme);
  to.set("train.timestep_shift", number_text(shift), scheme);
  to.set("train.sigmoid_scale", number_text(kLogisticScale), scheme);
}

void set_model(Translator& to, const Foreign& model) {
  static const std::regex hub(R"([\w.-]+/[\w.-]+)");
  const std::string text = model.text();
  const fs::path path = to.resolved(text);
  std::error_code code;
  if (!fs::exists(path, code) && std::regex_match(text, hub) &&
      fs::path(text).extension() != ".safetensors")
    to.list(model, Fate::lost,
            fmt::format("download {} from the hub; do `hf download {}` and set model.path", text,
                        text));
  to.set("model.path", path.string(), model);
}

int64_t steps_per_epoch(Translator& to) {
  const train::RunOptions& o = to.options();
  int64_t pictures = 0;
  for (const FolderOptions& folder : o.dataset.folders) {
    const auto found = static_cast<int64_t>(count_pictures(folder.path));
    if (!found) return 0;
    const auto sizes = static_cast<int64_t>(std::max<size_t>(1, folder.resolutions.size()));
    pictures += found * folder.repeats * sizes;
  }
  const int64_t batch = o.train.batch_size * o.train.accumulation;
  return (pictures + batch - 1) / batch;
}

void set_steps_from_epochs(Translator& to, const Foreign& epochs) {
  const int64_t each = steps_per_epoch(to);
  if (!each)
    return to.list(epochs, Fate::lost,
                   "train for so many epochs; the pictures are not there to be counted, set "
                   "train.steps");
  to.set("train.steps", number_text(number_of(epochs) * static_cast<double>(each)), epochs);
}

void set_resolutions(Translator& to, const std::vector<std::vector<int64_t>>& sides,
                     const Foreign& from) {
  auto& folders = to.options().dataset.folders;
  CHECK(sides.size() == folders.size(), "a list of sides for each folder");
  std::set<int64_t> all;
  for (size_t i = 0; i < sides.size(); ++i) {
    for (const int64_t side : sides[i]) {
      const int64_t rounded = std::max<int64_t>(16, (side + 8) / 16 * 16);
      if (rounded != side)
        to.list(from, Fate::lost,
                fmt::format("train at {} pixels; {} is the nearest multiple of 16", side, rounded));
      folders[i].resolutions.push_back(rounded);
      all.insert(rounded);
    }
  }
  if (all.empty()) return;
  to.set("dataset.resolution", number_text(static_cast<double>(*all.rbegin())), from);
  if (all.size() > 1) return;
  for (FolderOptions& folder : folders) folder.resolutions.clear();
}

}  // namespace fluxlora::config
