// SPDX-License-Identifier: Apache-2.0
#include "export/lora_file.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"
#include "export/lora_modules.h"
#include "tensor/safetensors.h"

namespace fluxlora::exporting {
namespace {

constexpr const char* kPrefix = "transformer.";
constexpr const char* kSuffixA = ".lora_A.weight";
constexpr const char* kSuffixB = ".lora_B.weight";

HostTensor to_dtype(const Tensor& source, DType dtype) {
  HostTensor result(dtype, {source.dim(0), source.dim(1)});
  convert(dtype, result.view.data(), source.dtype(), source.data(), source.size());
  return result;
}

[[noreturn]] void bad_lora(const std::filesystem::path& path, const std::string& what) {
  throw bad_input(path.string(), what,
                  "give a LoRA for this model; `fluxlora inspect` shows what the file holds");
}

/// The file's modules must be layers of this very model.
void check_fits(const LoraModules& file, const LoraModule& module,
                const std::map<std::string, flux::LinearName>& layers) {
  const auto layer = layers.find(module.place.layer.bfl);
  if (module.place.network != Network::transformer)
    bad_lora(file.path, "\"" + module.name + "\" changes a text encoder, which is not adapted");
  if (layer == layers.end())
    bad_lora(file.path, "\"" + module.name + "\" fits no layer of the model");
  const flux::LinearName& own = module.place.layer;
  if (own.in != layer->second.in || own.out != layer->second.out)
    bad_lora(file.path,
             fmt::format("\"{}\" is made for a layer of ({}, {}) where the model has "
                         "({}, {})",
                         module.name, own.out, own.in, layer->second.out, layer->second.in));
  if (module.is_lokr() || module.is_dora())
    bad_lora(file.path, fmt::format("\"{}\" is a {}, which cannot be attached", module.name,
                                    module.is_lokr() ? "LoKr" : "DoRA"));
}

}  // namespace

void write_diffusers_lora(const std::filesystem::path& path, const lora::AdapterSet& adapters,
                          const flux::Config& config, DType dtype,
                          const std::map<std::string, std::string>& metadata) {
  std::vector<HostTensor> a(adapters.specs().size()), b(adapters.specs().size());
  for (const lora::Segment& segment : adapters.segments())
    (segment.is_a ? a : b)[segment.spec] = to_dtype(adapters.download(segment).view, DType::f32);
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
  LoraModules file = read_lora_modules(path);
  std::map<std::string, flux::LinearName> layers;
  for (flux::LinearName& layer : flux::linear_names(config)) layers[layer.bfl] = layer;
  LoraFile lora;
  lora.metadata = file.metadata;
  for (LoraModule& module : file.modules) {
    check_fits(file, module, layers);
    const Place& place = module.place;
    // Diffusers' name where there is one, since that is what such an adapter was trained as.
    const std::string& name =
        place.whole() && place.count > 1 ? place.layer.bfl : place.layer.parts[place.first].module;
    lora.specs.push_back(
        {place.layer.bfl, name, place.row0(), module.rows, module.in, module.rank, module.alpha});
    lora.A.push_back(to_dtype(module.A.view, DType::f32));
    lora.B.push_back(to_dtype(module.B.view, DType::f32));
  }
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
