// SPDX-License-Identifier: Apache-2.0
#include "export/lora_file.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "export/lora_dialects.h"
#include "export/lora_modules.h"
#include "export/matrices.h"
#include "tensor/safetensors.h"

namespace fluxlora::exporting {
namespace {

constexpr const char* kPrefix = "transformer.";
constexpr const char* kSuffixA = ".lora_A.weight";
constexpr const char* kSuffixB = ".lora_B.weight";
constexpr const char* kSuffixMagnitude = ".lora_magnitude_vector";

HostTensor to_dtype(const Tensor& source, DType dtype) {
  HostTensor result = source.rank() == 1 ? HostTensor(dtype, {source.dim(0)})
                                         : HostTensor(dtype, {source.dim(0), source.dim(1)});
  convert(dtype, result.view.data(), source.dtype(), source.data(), source.size());
  return result;
}

[[noreturn]] void bad_lora(const std::filesystem::path& path, const std::string& what) {
  throw bad_input(path.string(), what,
                  "give a LoRA for this model; `fluxlora inspect` shows what the file holds");
}

void check_shape(const LoraModules& file, const LoraModule& module, int64_t out, int64_t in,
                 const flux::LinearName& layer) {
  if (in != layer.in || out != layer.out)
    bad_lora(file.path, fmt::format("\"{}\" is made for a layer of ({}, {}) where the model has "
                                    "({}, {})",
                                    module.name, out, in, layer.out, layer.in));
}

/// The same for CLIP's.
void check_fits_clip(const LoraModules& file, const LoraModule& module,
                     const std::optional<ClipConfig>& clip) {
  if (module.place.network != Network::clip || !clip)
    bad_lora(file.path, "\"" + module.name + "\" changes a text encoder, which is not adapted");
  if (module.is_dora()) bad_lora(file.path, "\"" + module.name + "\" is a DoRA of a text encoder");
  const std::string& name = module.place.layer.bfl;
  // "text_model.encoder.layers.7.mlp.fc1"
  const std::string from_number = name.substr(std::string("text_model.encoder.layers.").size());
  if (std::stoll(from_number) >= clip->layers)
    bad_lora(file.path, "\"" + module.name + "\" fits no layer of the model");
  flux::LinearName layer;
  layer.out = name.ends_with("fc1") ? clip->hidden : clip->width;
  layer.in = name.ends_with("fc2") ? clip->hidden : clip->width;
  check_shape(file, module, module.rows, module.in, layer);
}

/// The file's modules must be layers of this very model.
void check_fits(const LoraModules& file, const LoraModule& module,
                const std::map<std::string, flux::LinearName>& layers) {
  const auto layer = layers.find(module.place.layer.bfl);
  if (layer == layers.end())
    bad_lora(file.path, "\"" + module.name + "\" fits no layer of the model");
  const flux::LinearName& own = module.place.layer;
  check_shape(file, module, own.out, own.in, layer->second);
  if (module.is_lokr() && module.kron.contains("w2"))
    bad_lora(file.path, fmt::format("\"{}\" is a LoKr whose w2 is one whole matrix, which cannot "
                                    "be attached",
                                    module.name));
}

/// A LoKr as the LoRA that it is (lora/kron.h): the module's A, B and rank.
void make_lora(LoraModule& module) {
  const auto f32 = [&](const std::string& name) {
    return to_dtype(module.kron.at(name).view, DType::f32);
  };
  HostTensor w1;
  if (module.kron.contains("w1")) {
    w1 = f32("w1");
  } else {
    const HostTensor a = f32("w1_a"), b = f32("w1_b");
    w1 = HostTensor(DType::f32, {a.view.dim(0), b.view.dim(1)});
    multiply(w1.view, a.view, b.view, 1);
  }
  const HostTensor w2_a = f32("w2_a"), w2_b = f32("w2_b");
  const int64_t a = w1.view.dim(0), b = w1.view.dim(1), c = w2_a.view.dim(0);
  const int64_t R = w2_b.view.dim(0), d = w2_b.view.dim(1);
  const double scale = module.scale();
  module.A = HostTensor(DType::f32, {R * b, module.in});
  module.B = HostTensor(DType::f32, {module.rows, R * b});
  std::fill_n(module.A.view.as<float>(), module.A.view.size(), 0.0f);
  for (int64_t r = 0; r < R; ++r)
    for (int64_t j = 0; j < b; ++j)
      std::copy_n(w2_b.view.as<const float>() + r * d, d,
                  module.A.view.as<float>() + (r * b + j) * module.in + j * d);
  for (int64_t row = 0; row < a * c; ++row)
    for (int64_t r = 0; r < R; ++r)
      for (int64_t j = 0; j < b; ++j)
        module.B.view.as<float>()[(row * R + r) * b + j] =
            w1.view.as<float>()[row / c * b + j] * w2_a.view.as<float>()[row % c * R + r];
  module.rank = R * b;
  module.alpha = scale * static_cast<double>(module.rank);
  module.kron.clear();
}

/// LoKr in the layout that LyCORIS itself, SimpleTuner and ComfyUI read.
void write_lokr(const std::filesystem::path& path, const lora::AdapterSet& adapters,
                const flux::Config& config, DType dtype,
                const std::map<std::string, std::string>& metadata) {
  const LoraNames names(config);
  LoraModules file{path, metadata, config, std::vector<LoraModule>(adapters.specs().size())};
  for (const lora::Segment& segment : adapters.segments()) {
    const lora::AdapterSpec& spec = adapters.specs()[segment.spec];
    LoraModule& module = file.modules[segment.spec];
    module.name = kPrefix + spec.module;
    const auto place = names.find(module.name);
    CHECK(place.has_value(), "no place for " + module.name);
    module.place = *place;
    module.rows = spec.rows;
    module.in = spec.in;
    module.rank = spec.rank;
    module.alpha = spec.alpha;
    const char* const key = segment.role == lora::Role::w1     ? "w1"
                            : segment.role == lora::Role::w2_a ? "w2_a"
                                                               : "w2_b";
    module.kron[key] = to_dtype(adapters.download(segment).view, DType::f32);
  }
  write_lora(path, file, "simpletuner-lycoris", dtype);
}

/// The matrices of a set in f32, by spec; s is multiplied into b.
struct Matrices {
  std::vector<HostTensor> a, b, magnitude;
};

Matrices matrices_of(const lora::AdapterSet& adapters) {
  const size_t count = adapters.specs().size();
  Matrices all{std::vector<HostTensor>(count), std::vector<HostTensor>(count),
               std::vector<HostTensor>(count)};
  for (const lora::Segment& segment : adapters.segments()) {
    const HostTensor host = adapters.download(segment);
    if (segment.role == lora::Role::magnitude) {
      all.magnitude[segment.spec] = to_dtype(host.view.reshaped({segment.rows}), DType::f32);
      continue;
    }
    const bool is_a = segment.role == lora::Role::a;
    HostTensor& to = (is_a ? all.a : all.b)[segment.spec];
    to = to_dtype(host.view, DType::f32);
    const auto scale = static_cast<float>(adapters.specs()[segment.spec].scale());
    float* const values = to.view.as<float>();
    if (!is_a)
      std::for_each(values, values + to.view.size(), [scale](float& value) { value *= scale; });
  }
  return all;
}

/// A and B of adapter i and of its start as one: (A; A0) and (s B, -s B0).
std::pair<HostTensor, HostTensor> beside(const Matrices& own, const Matrices& start, size_t i) {
  const int64_t R = own.a[i].view.dim(0), in = own.a[i].view.dim(1), rows = own.b[i].view.dim(0);
  std::pair<HostTensor, HostTensor> both{HostTensor(DType::f32, {2 * R, in}),
                                         HostTensor(DType::f32, {rows, 2 * R})};
  for (const bool second : {false, true}) {
    const Matrices& from = second ? start : own;
    std::copy_n(from.a[i].view.as<const float>(), R * in,
                both.first.view.as<float>() + (second ? R * in : 0));
    for (int64_t r = 0; r < rows; ++r)
      std::copy_n(from.b[i].view.as<const float>() + r * R, R,
                  both.second.view.as<float>() + r * 2 * R + (second ? R : 0));
  }
  return both;
}

}  // namespace

void write_adapters(const std::filesystem::path& path, const lora::AdapterSet& adapters,
                    const flux::Config& config, DType dtype,
                    const std::map<std::string, std::string>& metadata) {
  if (adapters.specs().front().factor) return write_lokr(path, adapters, config, dtype, metadata);
  const Matrices own = matrices_of(adapters);
  const Matrices start = adapters.start() ? matrices_of(*adapters.start()) : Matrices{};
  const std::vector<flux::LinearName> layers = flux::linear_names(config);
  std::vector<HostTensor> memory;
  std::vector<NamedTensor> tensors;
  const auto add = [&](const std::string& name, const Tensor& view) {
    memory.push_back(to_dtype(view, dtype));
    tensors.push_back({name, memory.back().view});
  };
  std::vector<std::pair<HostTensor, HostTensor>> stacked;
  for (size_t i = 0; i < start.a.size(); ++i) stacked.push_back(beside(own, start, i));
  for (size_t i = 0; i < adapters.specs().size(); ++i) {
    const lora::AdapterSpec& spec = adapters.specs()[i];
    const Tensor A = start.a.empty() ? own.a[i].view : stacked[i].first.view;
    const Tensor B = start.a.empty() ? own.b[i].view : stacked[i].second.view;
    if (lora::is_clip(spec)) {
      add(spec.module + kSuffixA, A);
      add(spec.module + kSuffixB, B);
      continue;
    }
    const auto layer = std::find_if(layers.begin(), layers.end(),
                                    [&](const auto& l) { return l.bfl == spec.bfl; });
    CHECK(layer != layers.end(), "no layer " + spec.bfl);
    if (layer->swapped_halves) swap_halves(B);
    // An adapter of a whole fused layer becomes one of each part, with the same A.
    for (const flux::DiffusersPart& part : layer->parts) {
      if (part.row0 < spec.row0 || part.row0 + part.rows > spec.row0 + spec.rows) continue;
      add(kPrefix + part.module + kSuffixA, A);
      add(kPrefix + part.module + kSuffixB, B.slice(0, part.row0 - spec.row0, part.rows));
      if (spec.dora)
        add(kPrefix + part.module + kSuffixMagnitude,
            own.magnitude[i].view.slice(0, part.row0 - spec.row0, part.rows));
    }
  }
  std::map<std::string, std::string> all = metadata;
  all["format"] = "pt";
  add_hashes(tensors, all);
  write_safetensors(path, std::move(tensors), all);
}

LoraFile read_lora(const std::filesystem::path& path, const flux::Config& config,
                   const std::optional<ClipConfig>& clip) {
  LoraModules file = read_lora_modules(path);
  std::map<std::string, flux::LinearName> layers;
  for (flux::LinearName& layer : flux::linear_names(config)) layers[layer.bfl] = layer;
  LoraFile lora;
  lora.metadata = file.metadata;
  for (LoraModule& module : file.modules) {
    const Place& place = module.place;
    const bool text = place.network != Network::transformer;
    if (text)
      check_fits_clip(file, module, clip);
    else
      check_fits(file, module, layers);
    if (module.is_lokr()) make_lora(module);
    // Diffusers' name where there is one, since that is what such an adapter was trained as.
    const std::string name = text ? lora::kTextEncoder + place.layer.bfl
                             : place.whole() && place.count > 1
                                 ? place.layer.bfl
                                 : place.layer.parts[place.first].module;
    lora.specs.push_back({place.layer.bfl, name, text ? 0 : place.row0(), module.rows, module.in,
                          module.rank, module.alpha});
    lora.A.push_back(to_dtype(module.A.view, DType::f32));
    lora.B.push_back(to_dtype(module.B.view, DType::f32));
    lora.specs.back().dora = module.is_dora();
    lora.magnitude.push_back(module.is_dora() ? to_dtype(module.magnitude.view, DType::f32)
                                              : HostTensor());
  }
  return lora;
}

void upload(lora::AdapterSet& adapters, size_t first, const LoraFile& file) {
  for (const lora::Segment& segment : adapters.segments()) {
    if (segment.spec < first || segment.spec >= first + file.specs.size()) continue;
    const auto& matrices = segment.role == lora::Role::a   ? file.A
                           : segment.role == lora::Role::b ? file.B
                                                           : file.magnitude;
    const Tensor& source = matrices[segment.spec - first].view;
    adapters.upload(segment, to_dtype(source, adapters.params().dtype()).view);
  }
}

}  // namespace fluxlora::exporting
