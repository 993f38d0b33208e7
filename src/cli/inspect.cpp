// SPDX-License-Identifier: Apache-2.0
// fluxlora inspect: what a .safetensors file is.
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <set>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/lora_layers.h"
#include "model/flux/weights.h"
#include "model/source.h"
#include "tensor/safetensors.h"

namespace fluxlora::cli {
namespace {

using Json = nlohmann::ordered_json;

/// What a file can be: the word in the JSON and the one for people.
struct FileKind {
  std::string word, text;
};

bool any_name(const SafetensorsFile& file, std::initializer_list<const char*> beginnings) {
  const auto& names = file.names();
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return std::any_of(beginnings.begin(), beginnings.end(),
                       [&](const char* beginning) { return name.starts_with(beginning); });
  });
}

std::string metadata_of(const SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  return found == file.metadata().end() ? "" : found->second;
}

FileKind kind_of(const SafetensorsFile& file) {
  if (metadata_of(file, "format").starts_with("fluxlora state"))
    return {"fluxlora-state", "fluxlora's state of a run (optimizer and position)"};
  if (file.metadata().size() == 2 && !metadata_of(file, "key").empty() &&
      !metadata_of(file, "sha256").empty())
    return {"fluxlora-cache", "an entry of fluxlora's cache"};
  switch (lora_dialect(file)) {
    case LoraDialect::diffusers:
      return {"diffusers-lora", "a LoRA in diffusers' layout"};
    case LoraDialect::kohya:
      return {"kohya-lora", "a LoRA in kohya's layout"};
    case LoraDialect::other:
      return {"lora", "a LoRA in another layout"};
    case LoraDialect::none:
      break;
  }
  const std::vector<Network> networks = networks_in(SafetensorsSet(file.path()));
  if (networks.size() > 1) {
    std::vector<std::string> words;
    for (const Network n : networks) words.push_back(fmt::format("a {}", word_for(n)));
    return {"checkpoint", fmt::format("a checkpoint with {}", fmt::join(words, ", "))};
  }
  const auto has = [&](const char* name) { return file.contains(name); };
  if (has("x_embedder.weight") && any_name(file, {"transformer_blocks."}))
    return {"flux-transformer", "a FLUX transformer in diffusers' layout"};
  if (any_name(file, {"double_blocks.", "single_blocks.", "model.diffusion_model.double_blocks."}))
    return {"flux-transformer", "a FLUX transformer in Black Forest Labs' layout"};
  if (any_name(file, {"transformer_blocks.", "single_transformer_blocks."}))
    return {"flux-transformer", "a part of a FLUX transformer in diffusers' layout"};
  const auto holds = [&](Network network) {
    return !networks.empty() && networks.front() == network;
  };
  if (holds(Network::transformer)) return {"flux-transformer", "a FLUX transformer"};
  if (holds(Network::vae)) return {"vae", "a VAE"};
  if (holds(Network::clip)) return {"clip-text", "a CLIP text encoder"};
  if (has("shared.weight") || any_name(file, {"encoder.block."})) return {"t5", "a T5 encoder"};
  return {"unknown", "of a kind that fluxlora does not know"};
}

/// The middle and the ends of some numbers, finite ones only.
struct Spread {
  double least = 0, median = 0, largest = 0;
};
Spread spread_of(std::vector<double> values) {
  std::erase_if(values, [](double v) { return !std::isfinite(v); });
  if (values.empty()) return {NAN, NAN, NAN};
  std::sort(values.begin(), values.end());
  const double median = (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
  return {values.front(), median, values.back()};
}

/// Layers of one type, in the order in which types appear.
struct BlockType {
  std::string name;
  std::vector<const LoraLayer*> layers;

  Spread norms() const {
    std::vector<double> values;
    for (const LoraLayer* layer : layers) values.push_back(layer->norm);
    return spread_of(values);
  }
};

std::vector<BlockType> by_type(const LoraLayers& lora) {
  std::vector<BlockType> types;
  std::map<std::string, size_t> index;
  for (const LoraLayer& layer : lora.layers) {
    const auto [at, is_new] = index.emplace(layer.block_type, types.size());
    if (is_new) types.push_back({layer.block_type, {}});
    types[at->second].layers.push_back(&layer);
  }
  return types;
}

template <typename Value, typename Get>
std::vector<Value> distinct(const LoraLayers& lora, Get get) {
  std::set<Value> values;
  for (const LoraLayer& layer : lora.layers) values.insert(get(layer));
  return {values.begin(), values.end()};
}

std::vector<std::string> names_where(const LoraLayers& lora, bool (*is)(const LoraLayer&)) {
  std::vector<std::string> names;
  for (const LoraLayer& layer : lora.layers)
    if (is(layer)) names.push_back(layer.name);
  return names;
}

/// All that the two outputs need.
struct Findings {
  std::string path;
  FileKind kind;
  int64_t file_bytes = 0, numbers = 0;
  std::map<std::string, int64_t> dtypes;  ///< tensors by type
  std::map<std::string, std::string> metadata;
  int64_t tensors = 0;
  std::unique_ptr<LoraLayers> lora;
  std::vector<int64_t> ranks;
  std::vector<double> alphas;
  std::vector<std::string> dead, not_finite;
  std::string trigger, base_model;
  std::string model;  ///< the transformer's sizes in words; empty for other files
};

/// The first of these entries of the metadata that says something.
std::string first_entry(const SafetensorsFile& file, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const std::string value = metadata_of(file, key);
    if (!value.empty() && value != "None") return value;
  }
  return "";
}

/// What a file with a transformer says of it, with the help of a config.json beside it.
std::string describe_transformer(const std::filesystem::path& file) {
  const bool in_folder = file_exists(file.parent_path() / "config.json");
  const std::filesystem::path path = in_folder ? file.parent_path() : file;
  try {
    const flux::Config config = flux::read_config(path);
    flux::check_weights(path, config);
    return fmt::format("{} + {} blocks of width {}, {} guidance ({})", config.depth,
                       config.depth_single, config.D(), config.guidance_embed ? "with" : "without",
                       config.guidance_embed ? "as dev" : "as schnell");
  } catch (const Error& error) {
    return error.message();
  }
}

Findings examine(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  Findings found;
  found.path = path.string();
  found.kind = kind_of(file);
  std::error_code ignored;
  found.file_bytes = static_cast<int64_t>(std::filesystem::file_size(path, ignored));
  found.metadata = file.metadata();
  found.tensors = static_cast<int64_t>(file.names().size());
  for (const std::string& name : file.names()) {
    const auto& entry = file.entry(name);
    ++found.dtypes[std::string(safetensors_name(entry.dtype))];
    found.numbers += entry.bytes / dtype_size(entry.dtype);
  }
  found.trigger = first_entry(file, {"fluxlora.trigger", "modelspec.trigger_phrase"});
  found.base_model = first_entry(
      file, {"ss_base_model_version", "modelspec.architecture", "ss_sd_model_name", "base_model"});
  if (lora_dialect(file) == LoraDialect::none) {
    const auto networks = networks_in(SafetensorsSet(path));
    if (!networks.empty() && networks.front() == Network::transformer)
      found.model = describe_transformer(path);
    return found;
  }
  found.lora = std::make_unique<LoraLayers>(read_lora_layers(file));
  const LoraLayers& lora = *found.lora;
  found.ranks = distinct<int64_t>(lora, [](const LoraLayer& l) { return l.rank; });
  found.alphas = distinct<double>(lora, [](const LoraLayer& l) { return l.alpha; });
  found.dead = names_where(lora, [](const LoraLayer& l) { return l.dead(); });
  found.not_finite = names_where(lora, [](const LoraLayer& l) { return !l.finite(); });
  return found;
}

// ---- for programs -------------------------------------------------------------------------------

Json lora_json(const Findings& found) {
  Json types = Json::array(), layers = Json::array();
  for (const BlockType& type : by_type(*found.lora)) {
    const Spread norms = type.norms();
    types.push_back({{"name", type.name},
                     {"layers", type.layers.size()},
                     {"norm_min", norms.least},
                     {"norm_median", norms.median},
                     {"norm_max", norms.largest}});
  }
  for (const LoraLayer& layer : found.lora->layers)
    layers.push_back({{"name", layer.name},
                      {"rank", layer.rank},
                      {"alpha", layer.alpha},
                      {"in", layer.in},
                      {"out", layer.out},
                      {"norm", layer.norm}});
  return {{"ranks", found.ranks},           {"alphas", found.alphas},
          {"trigger", found.trigger},       {"base_model", found.base_model},
          {"layer_count", layers.size()},   {"block_types", std::move(types)},
          {"layers", std::move(layers)},    {"dead", found.dead},
          {"not_finite", found.not_finite}, {"broken", found.lora->broken}};
}

void print_json(const Findings& found) {
  Json root{{"file", found.path},        {"kind", found.kind.word},  {"bytes", found.file_bytes},
            {"tensors", found.tensors},  {"numbers", found.numbers}, {"dtypes", found.dtypes},
            {"metadata", found.metadata}};
  root["model"] = found.model.empty() ? Json() : Json(found.model);
  root["lora"] = found.lora ? lora_json(found) : Json();
  // Names in a file may be any bytes.
  std::cout << root.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

// ---- for people ---------------------------------------------------------------------------------

std::string size_text(int64_t bytes) {
  const char* units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} bytes", bytes) : fmt::format("{:.1f} {}", value, units[unit]);
}

/// One line, not too long, without what would move a terminal's cursor.
std::string plain(std::string text, size_t longest) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  if (text.size() <= longest) return text;
  size_t end = longest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

void print_names(const char* title, const std::vector<std::string>& names) {
  constexpr size_t kShown = 8;
  std::cout << fmt::format("  {:<11} ", title);
  if (names.empty()) std::cout << "none";
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i)
    std::cout << (i ? "\n              " : "") << plain(names[i], 160);
  if (names.size() > kShown)
    std::cout << fmt::format("\n              and {} more", names.size() - kShown);
  std::cout << "\n";
}

void print_lora(const Findings& found) {
  const LoraLayers& lora = *found.lora;
  std::cout << fmt::format("  {:<11} {}\n", "layers", lora.layers.size());
  std::cout << fmt::format("  {:<11} {}\n", "rank", fmt::join(found.ranks, ", "));
  std::cout << fmt::format("  {:<11} {}\n", "alpha", fmt::join(found.alphas, ", "));
  if (!found.trigger.empty())
    std::cout << fmt::format("  {:<11} {}\n", "trigger", plain(found.trigger, 100));
  if (!found.base_model.empty())
    std::cout << fmt::format("  {:<11} {}\n", "base model", plain(found.base_model, 100));
  print_names("dead", found.dead);
  print_names("not finite", found.not_finite);
  if (!lora.broken.empty()) print_names("broken", lora.broken);

  const std::vector<BlockType> types = by_type(lora);
  size_t width = 10;
  for (const BlockType& type : types) width = std::max(width, type.name.size());
  width = std::min<size_t>(width, 70);
  std::cout << fmt::format("\n  {:<{}}  {:>6}  {:>10}  {:>10}  {:>10}\n", "norm of s B A", width,
                           "layers", "least", "median", "largest");
  for (const BlockType& type : types) {
    const Spread norms = type.norms();
    std::cout << fmt::format("  {:<{}}  {:>6}  {:>10.4g}  {:>10.4g}  {:>10.4g}\n",
                             plain(type.name, width), width, type.layers.size(), norms.least,
                             norms.median, norms.largest);
  }
}

void print_table(const Findings& found) {
  std::vector<std::string> types;
  for (const auto& [name, count] : found.dtypes) types.push_back(fmt::format("{} {}", count, name));
  std::cout << fmt::format("{} is {}\n", plain(found.path, 1000), found.kind.text);
  std::cout << fmt::format("  {:<11} {}\n", "size", size_text(found.file_bytes));
  std::cout << fmt::format("  {:<11} {}{}\n", "tensors", found.tensors,
                           types.empty() ? "" : fmt::format(" ({})", fmt::join(types, ", ")));
  std::cout << fmt::format("  {:<11} {}\n", "numbers", found.numbers);
  if (!found.model.empty()) std::cout << fmt::format("  {:<11} {}\n", "model", found.model);
  if (found.lora) print_lora(found);
  if (found.metadata.empty()) return;
  std::cout << "\n  metadata\n";
  for (const auto& [key, value] : found.metadata)
    std::cout << fmt::format("    {} = {}\n", plain(key, 60), plain(value, 120));
}

}  // namespace

void add_inspect(CLI::App& program, int&) {
  struct Args {
    std::string file;
    bool json = false;
  };
  auto args = std::make_shared<Args>();
  CLI::App* command = program.add_subcommand(
      "inspect", "Say what a .safetensors file is: kind, rank, layers, strength, metadata");
  command->add_option("FILE", args->file, "The file")->required()->type_name("");
  command->add_flag("--json", args->json, "Print JSON");
  set_example(*command, "fluxlora inspect runs/quickstart/quickstart.safetensors");
  command->callback([args] {
    const Findings found = examine(args->file);
    args->json ? print_json(found) : print_table(found);
  });
}

}  // namespace fluxlora::cli
