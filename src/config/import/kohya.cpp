// SPDX-License-Identifier: Apache-2.0
// kohya's flux_train_network.py: docs/flux_train_network.md, train_network.md and
// config_README-en.md of kohya-ss/sd-scripts say what its options mean.
#include <algorithm>
#include <cmath>
#include <set>

#include <fmt/format.h>

#include "base/file.h"
#include "config/import/kohya_dataset.h"
#include "config/import/meanings.h"
#include "config/import/peers.h"

namespace fluxlora::config {

namespace fs = std::filesystem;

namespace {

/// Sections of a training TOML have no meaning: "[network_arguments] network_dim" is network_dim.
ForeignList without_sections(ForeignList list) {
  for (Foreign& option : list) option.name = option.name.substr(option.name.rfind('.') + 1);
  return list;
}

ForeignList with_config_file(const ForeignList& arguments, const fs::path& folder) {
  const Foreign* named = find_option(arguments, "config_file");
  if (!named) return arguments;
  fs::path path = named->text();
  if (path.extension() != ".toml") path += ".toml";
  if (!file_exists(path) && file_exists(folder / path)) path = folder / path;
  return overlaid(without_sections(read_foreign_toml(path).root.options), arguments);
}

void refuse_other_models(Translator& to) {
  if (const Foreign* type = to.take("model_type"); type && type->text() != "flux")
    throw bad_input(type->where, fmt::format("model_type is {}", type->text()),
                    "fluxlora trains FLUX.1 alone");
  const Foreign* module = to.take("network_module");
  if (module && module->text() != "networks.lora_flux")
    throw bad_input(module->where, fmt::format("network_module is {}", module->text()),
                    "only networks.lora_flux has a counterpart; set it, or choose a run without "
                    "other networks");
}

// ---- network ------------------------------------------------------------------------------------

/// "0,1,4-5" as patterns "PREFIX.4.*"; "all" and "none" are left to the caller.
void add_blocks(const Foreign& option, const std::string& prefix, std::set<std::string>& patterns) {
  std::string text = option.text();
  std::erase(text, ' ');
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string item = text.substr(at, end - at);
    const size_t dash = item.find('-');
    const auto number = [&](const std::string& digits) {
      return static_cast<int64_t>(number_of({option.name, {digits}, option.where}));
    };
    const int64_t first = number(item.substr(0, dash));
    const int64_t last = dash == std::string::npos ? first : number(item.substr(dash + 1));
    if (first < 0 || last < first || last > 999)
      throw bad_input(option.where, fmt::format("{} is \"{}\"", option.name, option.text()),
                      "give block numbers, such as 0,1,8-12");
    for (int64_t i = first; i <= last; ++i) patterns.insert(fmt::format("{}.{}.*", prefix, i));
    at = end + 1;
  }
}

struct BlockChoice {
  const char *option, *kind, *prefix;
};
constexpr BlockChoice kBlockChoices[] = {
    {"train_double_block_indices", "double", "double_blocks"},
    {"train_single_block_indices", "single", "single_blocks"},
};

void set_targets(Translator& to, const ForeignList& arguments, const Foreign& from) {
  const Foreign* blocks = find_option(arguments, "train_blocks");
  const std::string only = blocks ? blocks->text() : "all";
  std::set<std::string> patterns;
  bool all = only == "all";
  for (const BlockChoice& choice : kBlockChoices) {
    if (only != "all" && only != choice.kind) continue;
    const Foreign* indices = find_option(arguments, choice.option);
    const std::string word = indices ? indices->text() : "all";
    all = all && word == "all";
    if (word == "all")
      patterns.insert(std::string(choice.prefix) + ".*");
    else if (word != "none")
      add_blocks(*indices, choice.prefix, patterns);
  }
  if (patterns.empty())
    throw bad_input(from.where, "network_args leaves no block to train", "name some blocks");
  // Split q, k and v make the modules that ai-toolkit trains.
  const bool split = is_on(find_option(arguments, "split_qkv"));
  if (split && !all)
    to.list({"network_args.split_qkv", {"True"}, from.where}, Fate::lost,
            "train q, k and v apart in the chosen blocks");
  to.options().lora.targets = all && split ? std::vector<std::string>{"ai-toolkit"}
                              : all ? std::vector<std::string>{"kohya"}
                                    : std::vector<std::string>(patterns.begin(), patterns.end());
  to.result().origin["lora.targets"] = "network_args";
}

/// "name=value" words as options.
ForeignList name_values(const Foreign* option) {
  ForeignList list;
  if (!option) return list;
  for (const std::string& word : option->values) {
    const size_t equals = word.find('=');
    Foreign item{word.substr(0, equals), {}, option->where};
    if (equals != std::string::npos) item.values.push_back(word.substr(equals + 1));
    list.push_back(std::move(item));
  }
  return list;
}

void set_network(Translator& to) {
  const Foreign* from = to.take("network_args");
  const ForeignList arguments = name_values(from);
  const Foreign none{"network_module", {}, "kohya"};
  set_targets(to, arguments, from ? *from : none);
  for (Foreign argument : arguments) {
    const std::string name = argument.name;
    const bool known = name == "train_blocks" || name == kBlockChoices[0].option ||
                       name == kBlockChoices[1].option || name == "split_qkv";
    argument.name = "network_args." + name;
    if (known || argument.is_off()) continue;
    to.list(argument, Fate::lost,
            name.ends_with("_dim") || name.ends_with("_dims")
                ? "give these layers a rank of their own; lora.rank is the same for all"
            : name == "train_t5xxl" ? "train the T5 text encoder too"
                                    : "shape the network");
  }
}

// ---- training -----------------------------------------------------------------------------------

void set_learning(Translator& to) {
  const Foreign* rate = to.take("unet_lr");
  if (!rate) rate = to.take("learning_rate");
  to.take("learning_rate");
  Foreign name{"optimizer_type", {"AdamW"}, "kohya's default"};
  if (to.flag("use_8bit_adam")) name = {"use_8bit_adam", {"AdamW8bit"}, name.where};
  if (to.flag("use_lion_optimizer")) name = {"use_lion_optimizer", {"Lion"}, name.where};
  if (const Foreign* given = to.take("optimizer_type"); given && !given->text().empty())
    name = *given;
  set_optimizer(to, name, rate);
  if (to.options().train.optimizer.optimizer == "adafactor")
    to.set("train.adafactor_relative", "true", {"relative_step", {}, "kohya's default"});
  set_optimizer_arguments(to, name_values(to.take("optimizer_args")), "optimizer_args.");
  if (const Foreign* schedule = to.take("lr_scheduler"))
    set_schedule(to, *schedule, to.take("lr_warmup_steps"));
}

void set_times(Translator& to) {
  const Foreign& sampling = *to.take("timestep_sampling");
  const double shift = to.number("discrete_flow_shift", 3);
  if (sampling.text() == "sigma") {
    set_density(to, *to.take("weighting_scheme"), shift);
  } else {
    to.set("train.timestep_sampling", sampling.text(), sampling);
    if (sampling.text() == "shift")
      to.set("train.timestep_shift", number_text(shift), *to.take("discrete_flow_shift"));
  }
  const Foreign& prediction = *to.take("model_prediction_type");
  if (prediction.text() != "raw")
    to.list(
        prediction, Fate::lost,
        "compare a rescaled prediction with the target; fluxlora compares the prediction itself "
        "(raw), which kohya's own guide recommends");
}

/// kohya says everything in steps or in epochs.
void set_steps(Translator& to) {
  const Foreign& steps = *to.take("max_train_steps");
  to.set("train.steps", steps.text(), steps);
  if (const Foreign* epochs = to.take("max_train_epochs")) set_steps_from_epochs(to, *epochs);
  const auto in_epochs = [&](const char* option, const std::string& key) {
    const Foreign* every = to.take(option);
    if (!every) return;
    const int64_t each = steps_per_epoch(to);
    if (each)
      to.set(key, number_text(number_of(*every) * static_cast<double>(each)), *every);
    else
      to.list(*every, Fate::lost,
              fmt::format("count in epochs; the pictures are not there, set {}", key));
  };
  in_epochs("save_every_n_epochs", "output.checkpoint_every");
  in_epochs("sample_every_n_epochs", "sample.every");
}

void set_saving(Translator& to) {
  const Foreign silent{"save_every_n_steps", {"0"}, "kohya's default"};
  if (!to.result().origin.contains("output.checkpoint_every") && !to.take("save_every_n_steps"))
    to.set("output.checkpoint_every", "0", silent);
  for (const char* name : {"save_last_n_steps", "save_last_n_epochs"}) {
    const Foreign* last = to.take(name);
    if (!last) continue;
    double keep = number_of(*last);
    const Foreign* every = to.take("save_every_n_steps");
    if (every && std::string(name) == "save_last_n_steps")
      keep = std::ceil(keep / std::max(1.0, number_of(*every)));
    to.set("output.keep", number_text(std::max(1.0, keep)), *last);
  }
  if (const Foreign* type = to.take("save_precision"))
    to.set("output.dtype",
           type->text() == "fp16"    ? "f16"
           : type->text() == "float" ? "f32"
                                     : type->text(),
           *type);
  if (const Foreign* folder = to.take("output_dir")) {
    const fs::path path = fs::path(folder->text()) / to.text("output_name", "my_lora");
    to.set("output.path", path.string(), *folder);
  }
  for (const char* name : {"fp8_base", "fp8_base_unet"})
    if (to.flag(name)) to.set("model.precision", "fp8", {name, {}, "kohya"});
}

// ---- samples ------------------------------------------------------------------------------------

/// "a cat --w 512 --h 768 --d 1 --s 20 --g 3.5": the words before the first option, and options.
void set_sample_line(Translator& to, const Foreign& from, const std::string& line, bool is_first) {
  const size_t dashes = line.find(" --");
  to.options().sample.prompts.push_back(line.substr(0, dashes));
  if (dashes == std::string::npos) return;
  const std::pair<const char*, const char*> keys[] = {{"w", "sample.width"},
                                                      {"h", "sample.height"},
                                                      {"d", "sample.seed"},
                                                      {"s", "sample.steps"},
                                                      {"g", "sample.guidance"}};
  Command command{{}, from.where};
  for (size_t at = dashes; at < line.size();) {
    const size_t end = std::min(line.find(' ', at + 1), line.size());
    if (end > at + 1) command.words.push_back(line.substr(at + 1, end - at - 1));
    at = end;
  }
  for (Foreign option : parse_arguments(command, 0)) {
    const auto* const key = std::find_if(std::begin(keys), std::end(keys), [&](const auto& pair) {
      return option.name == pair.first;
    });
    option.name = "sample_prompts --" + option.name;
    if (key != std::end(keys) && is_first)
      to.set(key->second, option.text(), option);
    else
      to.list(option, Fate::lost,
              key == std::end(keys) ? "guide or start this sample in a way of its own"
                                    : "hold for this prompt alone; the first prompt's are taken");
  }
}

void set_samples(Translator& to) {
  const Foreign* prompts = to.take("sample_prompts");
  const bool wanted =
      to.result().origin.contains("sample.every") || to.take("sample_every_n_steps");
  if (!wanted) to.set("sample.every", "0", {"sample_every_n_steps", {}, "kohya's default"});
  if (!prompts) return;
  const fs::path path = to.resolved(prompts->text());
  if (!file_exists(path) || path.extension() != ".txt")
    return to.list(
        *prompts, Fate::lost,
        "show these samples; only a .txt file that is there is read, set sample.prompts");
  const std::string text = read_text(path);
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const size_t last = text.find_last_not_of(" \r\n", end == 0 ? 0 : end - 1);
    const std::string line =
        end > at && last != std::string::npos && last >= at ? text.substr(at, last + 1 - at) : "";
    if (!line.empty() && line[0] != '#')
      set_sample_line(to, *prompts, line, to.options().sample.prompts.empty());
    at = end + 1;
  }
  to.result().origin["sample.prompts"] = "sample_prompts";
}

}  // namespace

Imported import_kohya(const ForeignList& arguments, const fs::path& folder) {
  const ForeignList all = with_config_file(arguments, folder);
  Translator to(peer_table("kohya"), all, folder);
  to.take("config_file");
  refuse_other_models(to);
  if (const Foreign* model = to.take("pretrained_model_name_or_path")) set_model(to, *model);
  for (const char* name : {"train_batch_size", "gradient_accumulation_steps"})
    if (const Foreign* option = to.take(name))
      to.set(to.table().direct.at(name), option->text(), *option);
  set_kohya_folders(to, all, folder);
  set_network(to);
  set_steps(to);
  set_learning(to);
  set_times(to);
  set_saving(to);
  set_samples(to);
  to.finish();
  return to.result();
}

Imported import_kohya_dataset(const fs::path& path) {
  const ForeignList arguments{{"dataset_config", {path.string()}, path.string()}};
  Translator to(peer_table("kohya"), arguments, path.parent_path());
  set_kohya_folders(to, arguments, path.parent_path());
  return to.result();
}

}  // namespace fluxlora::config
