// SPDX-License-Identifier: Apache-2.0
#include "export/lora_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tensor/safetensors.h"

namespace fluxlora::exporting {
namespace {

constexpr const char* kPrefix = "transformer.";
constexpr const char* kSuffixA = ".lora_A.weight";
constexpr const char* kSuffixB = ".lora_B.weight";
constexpr const char* kPeftKey = "lora_adapter_metadata";

/// A diffusers module and the layer whose rows it is.
struct Module {
  const flux::LinearName* layer;
  flux::DiffusersPart part;
};

std::map<std::string, Module> modules_by_name(const std::vector<flux::LinearName>& layers) {
  std::map<std::string, Module> modules;
  for (const flux::LinearName& layer : layers)
    for (const flux::DiffusersPart& part : layer.parts) modules[part.module] = {&layer, part};
  return modules;
}

/// Exchanges the upper and the lower half of the rows: final_layer's shift and scale.
void swap_halves(const Tensor& rows) {
  const int64_t half = rows.size() / 2;
  CHECK(rows.dtype() == DType::f32, "swap_halves: " + rows.describe());
  std::swap_ranges(rows.as<float>(), rows.as<float>() + half, rows.as<float>() + half);
}

HostTensor as_f32(const HostTensor& source) {
  HostTensor result(DType::f32, {source.view.dim(0), source.view.dim(1)});
  convert(DType::f32, result.view.data(), source.view.dtype(), source.view.data(),
          source.view.size());
  return result;
}

HostTensor to_dtype(const Tensor& source, DType dtype) {
  HostTensor result(dtype, {source.dim(0), source.dim(1)});
  convert(dtype, result.view.data(), source.dtype(), source.data(), source.size());
  return result;
}

/// s = alpha / r of PEFT's configuration (flux-facts 3.1), by module; 1 without one.
class PeftScales {
 public:
  PeftScales(const std::filesystem::path& path, const std::map<std::string, std::string>& metadata)
      : path_(path) {
    const auto found = metadata.find(kPeftKey);
    if (found == metadata.end()) return;
    config_ = nlohmann::json::parse(found->second, nullptr, false);
    if (!config_.is_object()) fail("is not a JSON object");
  }

  double alpha(const std::string& module, int64_t rank) const {
    const auto r = static_cast<double>(rank);
    if (config_.is_null()) return r;
    double alpha = number("lora_alpha", r);
    const auto pattern = config_.find(std::string(kPrefix) + "alpha_pattern");
    if (pattern != config_.end() && pattern->is_object())
      for (const auto& [name, value] : pattern->items())
        if (value.is_number() && (module == name || module.ends_with("." + name)))
          alpha = value.get<double>();
    const auto rs = config_.find(std::string(kPrefix) + "use_rslora");
    const bool rslora = rs != config_.end() && rs->is_boolean() && rs->get<bool>();
    return rslora ? alpha * std::sqrt(r) : alpha;
  }

 private:
  double number(const std::string& key, double otherwise) const {
    const auto found = config_.find(kPrefix + key);
    if (found == config_.end()) return otherwise;
    if (!found->is_number()) fail("has no number under \"" + (kPrefix + key) + "\"");
    return found->get<double>();
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw bad_input(path_.string(), std::string("its metadata ") + kPeftKey + " " + what,
                    "save the LoRA again with the program that made it");
  }

  std::filesystem::path path_;
  nlohmann::json config_;
};

/// The module of a key "transformer.MODULE.lora_A.weight", or nothing for another key.
std::string module_of(const std::string& key, const std::string& suffix) {
  if (!key.starts_with(kPrefix) || !key.ends_with(suffix)) return {};
  const size_t prefix = std::strlen(kPrefix);
  return key.substr(prefix, key.size() - prefix - suffix.size());
}

[[noreturn]] void bad_lora(const std::filesystem::path& path, const std::string& what) {
  throw bad_input(path.string(), what,
                  "give a LoRA for this model in diffusers' layout; `fluxlora inspect` shows what "
                  "the file holds");
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

/// Reads the pair of one module and appends it.
void read_pair(LoraFile& lora, const SafetensorsFile& file, const std::string& name,
               const Module& module, const PeftScales& scales) {
  const std::string key_a = kPrefix + name + kSuffixA, key_b = kPrefix + name + kSuffixB;
  for (const std::string& key : {key_a, key_b})
    if (!file.contains(key)) bad_lora(file.path(), "has no \"" + key + "\" to make the pair whole");
  const auto& a = file.entry(key_a).shape;
  const auto& b = file.entry(key_b).shape;
  const int64_t in = module.layer->in, rows = module.part.rows;
  if (a.size() != 2 || a[1] != in || a[0] < 1)
    bad_lora(file.path(), "\"" + key_a + "\" is " + shape_text(a) + " where (rank, " +
                              std::to_string(in) + ") is expected");
  if (b != std::vector<int64_t>{rows, a[0]})
    bad_lora(file.path(), "\"" + key_b + "\" is " + shape_text(b) + " where " +
                              shape_text({rows, a[0]}) + " is expected");
  double alpha = scales.alpha(name, a[0]);
  const std::string alpha_key = kPrefix + name + ".alpha";
  if (file.contains(alpha_key)) alpha = file.read(alpha_key, DType::f32).view.as<float>()[0];
  lora.specs.push_back({module.layer->bfl, name, module.part.row0, rows, in, a[0], alpha});
  lora.A.push_back(file.read(key_a, DType::f32));
  lora.B.push_back(file.read(key_b, DType::f32));
  if (module.layer->swapped_halves) swap_halves(lora.B.back().view);
}

}  // namespace

void write_diffusers_lora(const std::filesystem::path& path, const lora::AdapterSet& adapters,
                          const flux::Config& config, DType dtype,
                          const std::map<std::string, std::string>& metadata) {
  std::vector<HostTensor> a(adapters.specs().size()), b(adapters.specs().size());
  for (const lora::Segment& segment : adapters.segments())
    (segment.is_a ? a : b)[segment.spec] = as_f32(adapters.download(segment));
  const std::vector<flux::LinearName> layers = flux::linear_names(config);
  std::vector<HostTensor> memory;
  std::vector<NamedTensor> tensors;
  const auto add = [&](const std::string& name, const Tensor& view) {
    memory.push_back(to_dtype(view, dtype));
    tensors.push_back({name, memory.back().view});
  };
  for (size_t i = 0; i < adapters.specs().size(); ++i) {
    const lora::AdapterSpec& spec = adapters.specs()[i];
    const auto layer = std::find_if(layers.begin(), layers.end(),
                                    [&](const auto& l) { return l.bfl == spec.bfl; });
    CHECK(layer != layers.end(), "no layer " + spec.bfl);
    const auto scale = static_cast<float>(spec.scale());
    std::for_each(b[i].view.as<float>(), b[i].view.as<float>() + b[i].view.size(),
                  [scale](float& value) { value *= scale; });
    if (layer->swapped_halves) swap_halves(b[i].view);
    // An adapter of a whole fused layer becomes one of each part, with the same A.
    for (const flux::DiffusersPart& part : layer->parts) {
      if (part.row0 < spec.row0 || part.row0 + part.rows > spec.row0 + spec.rows) continue;
      add(kPrefix + part.module + kSuffixA, a[i].view);
      add(kPrefix + part.module + kSuffixB, b[i].view.slice(0, part.row0 - spec.row0, part.rows));
    }
  }
  std::map<std::string, std::string> all = metadata;
  all["format"] = "pt";
  write_safetensors(path, std::move(tensors), all);
}

LoraFile read_lora(const std::filesystem::path& path, const flux::Config& config) {
  const SafetensorsFile file(path);
  const std::vector<flux::LinearName> layers = flux::linear_names(config);
  const std::map<std::string, Module> modules = modules_by_name(layers);
  const PeftScales scales(path, file.metadata());
  LoraFile lora;
  lora.metadata = file.metadata();
  for (const std::string& key : file.names()) {
    std::string name = module_of(key, kSuffixA);
    const bool is_a = !name.empty();
    if (!is_a) name = module_of(key, kSuffixB);
    if (name.empty()) name = module_of(key, ".alpha");
    const auto module = modules.find(name);
    if (module == modules.end()) bad_lora(path, "\"" + key + "\" fits no layer of the model");
    // B and alpha are read with their A; alone they are half a pair, which read_pair reports.
    if (is_a || !file.contains(kPrefix + name + kSuffixA))
      read_pair(lora, file, name, module->second, scales);
  }
  if (lora.specs.empty()) bad_lora(path, "holds no LoRA");
  return lora;
}

void upload(lora::AdapterSet& adapters, size_t first, const LoraFile& file) {
  for (const lora::Segment& segment : adapters.segments()) {
    if (segment.spec < first || segment.spec >= first + file.specs.size()) continue;
    const HostTensor& source = (segment.is_a ? file.A : file.B)[segment.spec - first];
    adapters.upload(segment, to_dtype(source.view, adapters.params().dtype()).view);
  }
}

}  // namespace fluxlora::exporting
