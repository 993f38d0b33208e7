// SPDX-License-Identifier: Apache-2.0
#include "export/lora_file.h"

#include <algorithm>
#include <tuple>
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

/// The matrices of a set in f32, by spec; with `scaled` s is multiplied into b.
struct Matrices {
  std::vector<HostTensor> a, b, magnitude;
};

Matrices matrices_of(const lora::AdapterSet& adapters, bool scaled) {
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
    if (!is_a && scaled)
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

/// Modules with names and places, without matrices.
LoraModules named_modules(const std::vector<lora::AdapterSpec>& specs, const flux::Config& config) {
  const LoraNames names(config);
  LoraModules file{"", {}, config, {}};
  for (const lora::AdapterSpec& spec : specs) {
    LoraModule module;
    module.name = lora::is_clip(spec) ? spec.module : kPrefix + spec.module;
    const auto place = names.find(module.name);
    CHECK(place.has_value(), "no place for " + module.name);
    module.place = *place;
    module.rows = spec.rows;
    module.in = spec.in;
    module.rank = spec.rank;
    module.alpha = spec.alpha;
    file.modules.push_back(std::move(module));
  }
  return file;
}

void fill_lokr(LoraModules& file, const lora::AdapterSet& adapters) {
  for (const lora::Segment& segment : adapters.segments()) {
    const char* const key = segment.role == lora::Role::w1     ? "w1"
                            : segment.role == lora::Role::w2_a ? "w2_a"
                                                               : "w2_b";
    file.modules[segment.spec].kron[key] = to_dtype(adapters.download(segment).view, DType::f32);
  }
}

void fill_lora(LoraModules& file, const lora::AdapterSet& adapters) {
  const lora::AdapterSet* const begun = adapters.start();
  Matrices own = matrices_of(adapters, /*scaled=*/begun != nullptr);
  const Matrices start = begun ? matrices_of(*begun, /*scaled=*/true) : Matrices{};
  for (size_t i = 0; i < file.modules.size(); ++i) {
    LoraModule& module = file.modules[i];
    if (begun) {
      std::tie(module.A, module.B) = beside(own, start, i);
      module.rank = module.A.view.dim(0);
      module.alpha = static_cast<double>(module.rank);
      continue;
    }
    module.A = std::move(own.a[i]);
    module.B = std::move(own.b[i]);
    module.magnitude = std::move(own.magnitude[i]);
  }
}

}  // namespace

void check_style(const std::vector<lora::AdapterSpec>& specs, const flux::Config& config,
                 const FileStyle& style) {
  if (specs.front().factor > 0) return;
  LoraModules file = named_modules(specs, config);
  file.path = "output.format";
  const auto zeros = [](HostTensor matrix) {
    std::fill_n(matrix.view.as<float>(), matrix.view.size(), 0.0f);
    return matrix;
  };
  for (size_t i = 0; i < specs.size(); ++i) {
    LoraModule& module = file.modules[i];
    module.rank = 1;
    module.A = zeros(HostTensor(DType::f32, {1, module.in}));
    module.B = zeros(HostTensor(DType::f32, {module.rows, 1}));
    if (specs[i].dora) module.magnitude = zeros(HostTensor(DType::f32, {module.rows}));
  }
  check_places(file, style.format);
}

void write_adapters(const std::filesystem::path& path, const lora::AdapterSet& adapters,
                    const flux::Config& config, const FileStyle& style,
                    const std::map<std::string, std::string>& metadata) {
  LoraModules file = named_modules(adapters.specs(), config);
  file.path = path;
  file.metadata = metadata;
  file.metadata["format"] = "pt";
  // A file that has the hashes gets its own from write_lora.
  file.metadata["sshs_model_hash"] = "";
  const bool lokr = adapters.specs().front().factor > 0;
  lokr ? fill_lokr(file, adapters) : fill_lora(file, adapters);
  write_lora(path, file, lokr ? kLokrFormat : style.format, style.dtype);
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
