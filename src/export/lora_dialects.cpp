// SPDX-License-Identifier: Apache-2.0
#include "export/lora_dialects.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/nearest.h"
#include "export/alpha_record.h"
#include "export/lora_rows.h"
#include "export/peft_config.h"
#include "tensor/serialise.h"

namespace fluxlora::exporting {
namespace {

/// Whose names the transformer's layers get, and so which rows make a module.
enum class Naming { bfl, diffusers, numbered_parts, processors };

/// A layout. Names are prefix + layer + ending; "_" as a separator stands for all dots.
struct Dialect {
  std::string_view word, transformer, clip, t5;  ///< prefixes; "-": no place for such modules
  Naming naming;
  char separator;
  std::string_view a, b, magnitude;
  bool alphas;  ///< whether it has tensors for alpha
};

constexpr Dialect kDialects[] = {
    {"diffusers", "transformer.", "text_encoder.", "text_encoder_2.", Naming::diffusers, '.',
     ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector", false},
    {"ai-toolkit", "transformer.", "text_encoder.", "text_encoder_2.", Naming::diffusers, '.',
     ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector", false},
    {"peft", "base_model.model.", "-", "-", Naming::diffusers, '.', ".lora_A.weight",
     ".lora_B.weight", ".lora_magnitude_vector", false},
    {"kohya", "lora_unet_", "lora_te1_", "lora_te3_", Naming::bfl, '_', ".lora_down.weight",
     ".lora_up.weight", ".dora_scale", true},
    {"comfyui", "diffusion_model.", "text_encoders.clip_l.transformer.",
     "text_encoders.t5xxl.transformer.", Naming::bfl, '.', ".lora_down.weight", ".lora_up.weight",
     ".dora_scale", true},
    {"bfl", "", "-", "-", Naming::bfl, '.', ".lora_A.weight", ".lora_B.weight", ".dora_scale",
     false},
    {"onetrainer", "lora_transformer_", "lora_te1_", "lora_te2_", Naming::diffusers, '_',
     ".lora_down.weight", ".lora_up.weight", ".dora_scale", true},
    {"onetrainer-dotted", "lora_transformer.", "lora_te1.", "lora_te2.", Naming::diffusers, '.',
     ".lora_down.weight", ".lora_up.weight", ".dora_scale", true},
    {"onetrainer-omi", "transformer.", "clip_l.", "t5.", Naming::numbered_parts, '.',
     ".lora_down.weight", ".lora_up.weight", ".dora_scale", true},
    {"onetrainer-omi-old", "lora_transformer.", "lora_clip_l.", "lora_t5.", Naming::numbered_parts,
     '.', ".lora_down.weight", ".lora_up.weight", ".dora_scale", true},
    {"simpletuner-lycoris", "lycoris_", "-", "-", Naming::diffusers, '_', ".lora_down.weight",
     ".lora_up.weight", ".dora_scale", true},
    {"xlabs", "", "-", "-", Naming::processors, '.', ".down.weight", ".up.weight", ".dora_scale",
     false},
};

const Dialect& find_dialect(const std::string& word) {
  for (const Dialect& dialect : kDialects)
    if (dialect.word == word) return dialect;
  const auto nearest = nearest_name(word, dialect_names());
  throw bad_input("--to", fmt::format("\"{}\" is not a layout of LoRA files", word),
                  nearest ? fmt::format("did you mean {}?", *nearest)
                          : fmt::format("give one of {}", fmt::join(dialect_names(), ", ")));
}

[[noreturn]] void no_place(const LoraModules& file, const LoraModule& module,
                           const Dialect& dialect) {
  throw bad_input(file.path.string(),
                  fmt::format("\"{}\" has no place in the layout {}", module.name, dialect.word),
                  "choose another layout, such as diffusers or kohya");
}

/// XLabs' name of a layer in block "double_blocks.N." or "single_blocks.N.", or nothing.
std::string processor_name(const std::string& layer) {
  static const std::pair<std::string_view, const char*> kNames[] = {
      {".img_attn.qkv", ".processor.qkv_lora1"},   {".txt_attn.qkv", ".processor.qkv_lora2"},
      {".img_attn.proj", ".processor.proj_lora1"}, {".txt_attn.proj", ".processor.proj_lora2"},
      {".linear1", ".processor.qkv_lora"},         {".linear2", ".processor.proj_lora"}};
  for (const auto& [own, theirs] : kNames)
    if (layer.ends_with(own)) return layer.substr(0, layer.size() - own.size()) + theirs;
  return "";
}

/// The layer's name in the dialect, without prefix and ending; empty when it has none.
std::string layer_name(const Place& place, const Dialect& dialect) {
  if (place.network != Network::transformer) return place.layer.bfl;
  const std::vector<flux::DiffusersPart>& parts = place.layer.parts;
  switch (dialect.naming) {
    case Naming::bfl:
      return place.layer.bfl;
    case Naming::diffusers:
      return parts[place.first].module;
    case Naming::numbered_parts:
      if (place.layer.bfl == "img_in") return "img_in.proj";
      return parts.size() == 1 ? place.layer.bfl
                               : place.layer.bfl + "." + std::to_string(place.first);
    case Naming::processors:
      // The rows of proj_mlp have no processor.
      return parts.size() == 4 && place.first == 3 ? "" : processor_name(place.layer.bfl);
  }
  return "";
}

/// The module's name in the dialect without the ending; empty when it has no place there.
std::string stem_of(const LoraModule& module, const Dialect& dialect) {
  const Network network = module.place.network;
  const std::string_view prefix = network == Network::transformer ? dialect.transformer
                                  : network == Network::clip      ? dialect.clip
                                                                  : dialect.t5;
  std::string name = layer_name(module.place, dialect);
  if (prefix == "-" || name.empty()) return "";
  if (dialect.separator == '_') std::replace(name.begin(), name.end(), '.', '_');
  return std::string(prefix) + name;
}

/// Brings the rows into the modules of the dialect.
LoraModules with_rows_of(const LoraModules& file, const Dialect& dialect) {
  switch (dialect.naming) {
    case Naming::bfl:
      return fuse(file);
    case Naming::processors:
      return fuse_attention(file);
    case Naming::diffusers:
    case Naming::numbered_parts:
      break;
  }
  return split(file);
}

/// The tensors of a file in the making.
class Tensors {
 public:
  explicit Tensors(std::optional<DType> dtype) : dtype_(dtype) {}

  /// `column`: a vector becomes a matrix of one column.
  void add(const std::string& name, const Tensor& source, bool column = false) {
    const DType type = dtype_.value_or(source.dtype());
    HostTensor tensor = source.rank() == 2 ? HostTensor(type, {source.dim(0), source.dim(1)})
                        : column           ? HostTensor(type, {source.dim(0), 1})
                                           : HostTensor(type, {source.dim(0)});
    convert(type, tensor.view.data(), source.dtype(), source.data(), source.size());
    if (type != source.dtype()) check_range(name, tensor.view);
    list_.push_back({name, tensor.view});
    memory_.push_back(std::move(tensor));
  }

  /// alpha as a scalar of `type`, or of f32 where that cannot hold it.
  void add_alpha(const std::string& name, double alpha, DType type) {
    type = dtype_.value_or(type);
    HostTensor tensor(type, {1});
    double held = 0;
    convert(type, tensor.view.data(), DType::f64, &alpha, 1);
    convert(DType::f64, &held, type, tensor.view.data(), 1);
    if (held != alpha && type != DType::f64) {
      tensor = HostTensor(DType::f32, {1});
      convert(DType::f32, tensor.view.data(), DType::f64, &alpha, 1);
    }
    list_.push_back({name, tensor.view, /*scalar=*/true});
    memory_.push_back(std::move(tensor));
  }

  std::vector<NamedTensor> take() { return std::move(list_); }
  const std::vector<NamedTensor>& list() const { return list_; }

 private:
  static void check_range(const std::string& name, const Tensor& tensor) {
    for (int64_t i = 0; i < tensor.size(); ++i) {
      double value = 0;
      convert(DType::f64, &value, tensor.dtype(),
              tensor.as<std::byte>() + i * dtype_size(tensor.dtype()), 1);
      if (!std::isfinite(value))
        throw bad_input("--dtype",
                        fmt::format("{} cannot hold a number of \"{}\"",
                                    safetensors_name(tensor.dtype()), name),
                        "use bf16 or f32");
    }
  }

  std::optional<DType> dtype_;
  std::vector<NamedTensor> list_;
  std::vector<HostTensor> memory_;
};

void add_module(const LoraModules& file, const LoraModule& module, const Dialect& dialect,
                Tensors& tensors) {
  const std::string stem = stem_of(module, dialect);
  if (stem.empty()) no_place(file, module, dialect);
  for (const auto& [name, matrix] : module.kron) tensors.add(stem + ".lokr_" + name, matrix.view);
  if (module.is_lokr()) {
    // No layout has another place for a LoKr's alpha.
    if (module.rank > 0 || module.alpha_dtype)
      tensors.add_alpha(stem + ".alpha", module.alpha,
                        module.alpha_dtype.value_or(module.kron.begin()->second.view.dtype()));
    return;
  }
  tensors.add(stem + std::string(dialect.a), module.A.view);
  tensors.add(stem + std::string(dialect.b), module.B.view);
  if (module.is_dora())
    tensors.add(stem + std::string(dialect.magnitude), module.magnitude.view,
                dialect.magnitude == ".dora_scale");
  if (dialect.alphas)
    tensors.add_alpha(stem + ".alpha", module.alpha,
                      module.alpha_dtype.value_or(module.B.view.dtype()));
}

/// PEFT's adapter_config.json for alphas that are in the matrices: alpha = rank everywhere.
std::string adapter_config(const LoraModules& file) {
  nlohmann::json ranks = nlohmann::json::object(), targets = nlohmann::json::array();
  bool dora = false;
  for (const LoraModule& module : file.modules) {
    const std::string& name = module.place.layer.parts[module.place.first].module;
    ranks[name] = module.rank;
    targets.push_back(name);
    dora |= module.is_dora();
  }
  const int64_t rank = file.modules.front().rank;
  return nlohmann::json{{"peft_type", "LORA"},     {"r", rank},
                        {"lora_alpha", rank},      {"rank_pattern", ranks},
                        {"alpha_pattern", ranks},  {"target_modules", targets},
                        {"use_dora", dora},        {"bias", "none"},
                        {"fan_in_fan_out", false}, {"inference_mode", true}}
             .dump(2) +
         "\n";
}

void write_peft_folder(const std::filesystem::path& folder, const LoraModules& file,
                       std::vector<NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  make_folder(folder);
  write_safetensors(folder / "adapter_model.safetensors", std::move(tensors), metadata);
  write_file_atomically(folder / "adapter_config.json", adapter_config(file));
}

}  // namespace

std::vector<std::string> dialect_names() {
  std::vector<std::string> names;
  for (const Dialect& dialect : kDialects) names.emplace_back(dialect.word);
  return names;
}

std::string dialect_of(const LoraModules& file) {
  for (const Dialect& dialect : kDialects)
    if (std::all_of(file.modules.begin(), file.modules.end(), [&](const LoraModule& module) {
          return stem_of(module, dialect) == module.name;
        }))
      return std::string(dialect.word);
  return "diffusers";
}

void add_hashes(const std::vector<NamedTensor>& tensors,
                std::map<std::string, std::string>& metadata) {
  constexpr size_t kFirst = 0x100000, kLast = kFirst + 0x10000;
  std::map<std::string, std::string> hashed;
  for (const auto& [key, value] : metadata)
    if (key.starts_with("ss_")) hashed[key] = value;
  Sha256 model, legacy;
  size_t at = 0;
  serialise_safetensors("", tensors, hashed, [&](std::span<const std::byte> bytes) {
    if (at > 0) model.update(bytes);
    const size_t first = std::clamp(kFirst, at, at + bytes.size());
    const size_t last = std::clamp(kLast, at, at + bytes.size());
    if (first < last) legacy.update(bytes.subspan(first - at, last - first));
    at += bytes.size();
  });
  metadata["sshs_model_hash"] = model.hex();
  metadata["sshs_legacy_hash"] = legacy.hex().substr(0, 8);
}

void check_places(const LoraModules& file, const std::string& word) {
  const Dialect& dialect = find_dialect(word);
  const LoraModules in_rows = with_rows_of(file, dialect);
  for (const LoraModule& module : in_rows.modules)
    if (stem_of(module, dialect).empty()) no_place(file, module, dialect);
}

Written write_lora(const std::filesystem::path& path, const LoraModules& file,
                   const std::string& word, std::optional<DType> dtype) {
  const Dialect& dialect = find_dialect(word);
  LoraModules source = with_rows_of(restore_alphas(file), dialect);
  Written written{source.modules.size(), 0, false};
  if (!dialect.alphas) written.rounding = fold_alphas(source);
  Tensors tensors(dtype);
  for (LoraModule& module : source.modules) {
    if (dialect.naming == Naming::diffusers && module.place.layer.swapped_halves)
      swap_rows(source, module);
    add_module(source, module, dialect, tensors);
    written.has_t5 |= module.place.network == Network::t5;
  }
  if (source.metadata.erase("sshs_model_hash") + source.metadata.erase("sshs_legacy_hash") > 0)
    add_hashes(tensors.list(), source.metadata);
  if (word == "peft")
    write_peft_folder(path, source, tensors.take(), source.metadata);
  else
    write_safetensors(path, tensors.take(), source.metadata);
  return written;
}

}  // namespace fluxlora::exporting
