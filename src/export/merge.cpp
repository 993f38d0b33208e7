// SPDX-License-Identifier: Apache-2.0
#include "export/merge.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/pages.h"
#include "base/parallel.h"
#include "export/lora_modules.h"
#include "export/stored_model.h"
#include "model/flux/names.h"
#include "model/pipeline.h"
#include "tensor/round_stochastically.h"
#include "tensor/safetensors_stream.h"

namespace fluxlora::exporting {

namespace fs = std::filesystem;

namespace {

constexpr float kLargestE4m3 = 448;

/// How a matrix is written.
struct Format {
  DType dtype;
  bool scaled = false;
};

bool in_blocks(const std::string& layer) {
  return layer.starts_with("double_blocks.") || layer.starts_with("single_blocks.");
}

Format format_of(const StoredModel& model, const std::string& layer, const std::string& wanted) {
  const std::string weight = layer + ".weight";
  if (wanted == "same") {
    const DType own = model.dtype(weight);
    const bool fp8 = own == DType::f8_e4m3 || own == DType::f8_e5m2;
    return {fp8 ? DType::f8_e4m3 : own, fp8 && model.is_scaled(weight)};
  }
  if (wanted == "f32") return {DType::f32};
  if (wanted == "f16") return {DType::f16};
  if (wanted == "bf16" || !in_blocks(layer)) return {DType::bf16};
  return {DType::f8_e4m3, wanted == "fp8-scaled"};
}

/// Biases and norms: fp8 files may keep them in fp8 too, which bf16 holds exactly.
DType vector_type(const StoredModel& model, const std::string& name, const std::string& wanted) {
  if (wanted == "f32") return DType::f32;
  if (wanted == "f16") return DType::f16;
  const DType own = model.dtype(name);
  if (wanted == "same" && own != DType::f8_e4m3 && own != DType::f8_e5m2) return own;
  return DType::bf16;
}

std::span<const std::byte> bytes_of(const Tensor& tensor) {
  return {tensor.as<const std::byte>(), static_cast<size_t>(tensor.bytes())};
}

/// What the LoRAs do, by layer.
class Changes {
 public:
  Changes(const StoredModel& model, const std::vector<WeightedLora>& loras) {
    std::map<std::string, flux::LinearName> layers;
    for (flux::LinearName& layer : flux::linear_names(model.config())) layers[layer.bfl] = layer;
    for (const WeightedLora& lora : loras) {
      LoraModules file = read_lora_modules(lora.path);
      for (LoraModule& module : file.modules) {
        if (module.place.network != Network::transformer) {
          ++text_modules_;
          continue;
        }
        const auto layer = layers.find(module.place.layer.bfl);
        check_fits(file, module, layer == layers.end() ? nullptr : &layer->second);
        const int64_t row0 = layer->second.parts[module.place.first].row0;
        by_layer_[layer->first].push_back({std::move(module), row0, lora.weight});
      }
    }
  }

  int64_t text_modules() const { return text_modules_; }

  /// Adds them to the matrix (out, in) f32 of a layer; false when there is none.
  bool add_to(const Tensor& values, const std::string& layer) const {
    const auto found = by_layer_.find(layer);
    if (found == by_layer_.end()) return false;
    bool changed = false;
    for (const Change& change : found->second) {
      if (change.weight == 0) continue;
      add(values.slice(0, change.row0, change.module.rows), change);
      changed = true;
    }
    return changed;
  }

 private:
  struct Change {
    LoraModule module;
    int64_t row0;
    double weight;
  };

  static void check_fits(const LoraModules& file, const LoraModule& module,
                         const flux::LinearName* layer) {
    const Place& place = module.place;
    const bool fits = layer && place.first + place.count <= layer->parts.size() &&
                      module.in == layer->in &&
                      layer->parts[place.first].row0 + module.rows <= layer->out;
    if (fits) return;
    throw bad_input(file.path.string(),
                    fmt::format("\"{}\" of ({}, {}) fits no layer of the model", module.name,
                                module.rows, module.in),
                    "give a LoRA for this model; `fluxlora inspect` shows what the file holds");
  }

  /// W += weight dW; a DoRA goes from W to m (W + dW) / |W + dW|, by rows.
  static void add(const Tensor& rows, const Change& change) {
    const HostTensor delta = change.module.change();
    const bool dora = change.module.is_dora();
    HostTensor magnitude;
    if (dora) {
      magnitude = HostTensor(DType::f32, {change.module.rows});
      convert(DType::f32, magnitude.view.data(), change.module.magnitude.view.dtype(),
              change.module.magnitude.view.data(), change.module.rows);
    }
    const int64_t in = change.module.in;
    const auto weight = static_cast<float>(change.weight);
    parallel_for(change.module.rows, 1, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        float* w = rows.as<float>() + r * in;
        const float* d = delta.view.as<const float>() + r * in;
        double squares = 0;
        for (int64_t i = 0; i < in && dora; ++i)
          squares += (double(w[i]) + d[i]) * (double(w[i]) + d[i]);
        const auto norm = static_cast<float>(std::sqrt(squares));
        const float factor = dora && norm > 0 ? magnitude.view.as<float>()[r] / norm : 1.0f;
        for (int64_t i = 0; i < in; ++i)
          w[i] += weight * (dora ? factor * (w[i] + d[i]) - w[i] : d[i]);
      }
    });
  }

  std::map<std::string, std::vector<Change>> by_layer_;
  int64_t text_modules_ = 0;
};

/// One matrix after the other: merged, then in its format.
class Matrices {
 public:
  Matrices(const StoredModel& model, const std::vector<WeightedLora>& loras,
           const MergeOptions& options)
      : model_(model),
        options_(options),
        names_(flux::linear_names(model.config())),
        changes_(model, loras) {
    merged_.text_modules = changes_.text_modules();
  }

  const std::vector<flux::LinearName>& names() const { return names_; }
  Format format(size_t layer) const {
    return format_of(model_, names_[layer].bfl, options_.format);
  }
  const Merged& merged() const { return merged_; }

  /// The matrix in its format, (out, in); stays until another one is asked for.
  const Tensor& codes(size_t layer) {
    make(layer);
    return codes_.view;
  }
  float scale(size_t layer) {
    make(layer);
    return scale_;
  }

 private:
  void make(size_t layer) {
    if (current_ == layer) return;
    current_ = layer;
    codes_ = HostTensor();  // its memory first
    const flux::LinearName& name = names_[layer];
    const std::string weight = name.bfl + ".weight";
    const HostTensor values = model_.read(weight, {name.out, name.in});
    const bool changed = changes_.add_to(values.view, name.bfl);
    model_.forget(weight);
    write_codes(layer, values.view, changed);
    merged_.layers += changed ? 1 : 0;
  }

  void write_codes(size_t layer, const Tensor& values, bool changed) {
    const Format format = this->format(layer);
    scale_ = 1;
    if (format.dtype == DType::f8_e4m3) scale_ = fp8_scale(layer, values, format);
    codes_ = HostTensor(format.dtype, {values.dim(0), values.dim(1)});
    if (format.dtype == DType::f8_e4m3) merged_.unscaled |= changed && !format.scaled;
    if (changed && format.dtype != DType::f32)
      round_stochastically(codes_.view, values, scale_, options_.seed,
                           static_cast<uint32_t>(layer));
    else if (format.dtype == DType::f8_e4m3)
      round_to_nearest(values);
    else
      convert(format.dtype, codes_.view.data(), DType::f32, values.data(), values.size());
  }

  void round_to_nearest(const Tensor& values) {
    parallel_for(values.size(), 1 << 16, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        codes_.view.as<uint8_t>()[i] = f32_to_f8_e4m3(values.as<const float>()[i] / scale_);
    });
  }

  float fp8_scale(size_t layer, const Tensor& values, const Format& format) const {
    if (!format.scaled) return 1;
    float largest = 0;
    for (int64_t i = 0; i < values.size(); ++i)
      largest = std::max(largest, std::fabs(values.as<const float>()[i]));
    const auto own = model_.factor(names_[layer].bfl + ".weight");
    if (own && largest <= kLargestE4m3 * *own) return *own;
    return largest > 0 ? largest / kLargestE4m3 : 1;
  }

  const StoredModel& model_;
  const MergeOptions& options_;
  const std::vector<flux::LinearName> names_;
  const Changes changes_;
  size_t current_ = static_cast<size_t>(-1);
  HostTensor codes_;
  float scale_ = 1;
  Merged merged_;
};

/// A file in the making: what stands in it, and how each tensor's bytes come.
class Recipe {
 public:
  using Bytes = std::function<std::span<const std::byte>()>;
  void add(TensorPlan plan, Bytes bytes) {
    plans_.push_back(std::move(plan));
    bytes_.push_back(std::move(bytes));
  }
  void write(const fs::path& path, const std::map<std::string, std::string>& metadata) const {
    stream_safetensors(path, plans_, metadata, [this](size_t i) { return bytes_[i](); });
  }

 private:
  std::vector<TensorPlan> plans_;
  std::vector<Bytes> bytes_;
};

/// A bias or a norm's weights, rows [row0, row0 + rows) of them.
struct VectorRows {
  std::string name;  ///< ours
  int64_t size, row0, rows;
  bool swapped = false;
};

HostTensor vector_in(const StoredModel& model, const VectorRows& rows, DType dtype) {
  const HostTensor all = model.read(rows.name, {rows.size});
  std::vector<float> values(all.view.as<const float>(), all.view.as<const float>() + rows.size);
  if (rows.swapped) std::rotate(values.begin(), values.begin() + rows.size / 2, values.end());
  HostTensor out(dtype, {rows.rows});
  convert(dtype, out.view.data(), DType::f32, values.data() + rows.row0, rows.rows);
  return out;
}

class Merger {
 public:
  Merger(const StoredModel& model, const std::vector<WeightedLora>& loras,
         const MergeOptions& options)
      : model_(model), options_(options), matrices_(model, loras, options) {
    for (const WeightedLora& lora : loras)
      sources_.push_back({{"sha256", content_hash({lora.path})}, {"weight", lora.weight}});
  }

  /// BFL's names behind the prefix that the base's file has, the other networks of that file too.
  void write_file(const fs::path& path, bool keep_others) {
    Recipe recipe;
    const std::string prefix = keep_others ? model_.prefix() : "";
    bool scaled = false;
    for (size_t i = 0; i < matrices_.names().size(); ++i) {
      const flux::LinearName& name = matrices_.names()[i];
      const Format format = matrices_.format(i);
      recipe.add({prefix + name.bfl + ".weight", format.dtype, {name.out, name.in}},
                 [this, i] { return bytes_of(matrices_.codes(i)); });
      if (format.scaled)
        recipe.add({prefix + name.bfl + ".scale_weight", DType::f32, {}},
                   [this, i] { return scale_bytes(i); });
      scaled = scaled || format.scaled;
      add_vector(recipe, prefix + name.bfl + ".bias", {name.bfl + ".bias", name.out, 0, name.out});
    }
    for (const flux::NormName& norm : flux::norm_names(model_.config())) {
      const int64_t K = model_.config().K;
      add_vector(recipe, prefix + norm.bfl + ".scale", {norm.bfl + ".scale", K, 0, K});
    }
    // Two elements ask for products in full precision, as base and LoRA were made with.
    static constexpr std::byte kMarker[2]{};
    if (scaled)
      recipe.add({prefix + "scaled_fp8", DType::f8_e4m3, {2}},
                 [] { return std::span<const std::byte>(kMarker); });
    if (keep_others)
      for (const std::string& other : model_.others()) add_other(recipe, other);
    recipe.write(path, metadata());
  }

  /// diffusers' names.
  void write_folder(const fs::path& folder) {
    Recipe recipe;
    for (size_t i = 0; i < matrices_.names().size(); ++i) {
      const flux::LinearName& name = matrices_.names()[i];
      for (const flux::DiffusersPart& part : name.parts) {
        recipe.add({part.module + ".weight", matrices_.format(i).dtype, {part.rows, name.in}},
                   [this, i, part] { return part_bytes(i, part); });
        add_vector(recipe, part.module + ".bias",
                   {name.bfl + ".bias", name.out, part.row0, part.rows, name.swapped_halves});
      }
    }
    for (const flux::NormName& norm : flux::norm_names(model_.config())) {
      const int64_t K = model_.config().K;
      add_vector(recipe, norm.diffusers + ".weight", {norm.bfl + ".scale", K, 0, K});
    }
    recipe.write(folder / "diffusion_pytorch_model.safetensors", metadata());
  }

  const Merged& merged() const { return matrices_.merged(); }

 private:
  std::map<std::string, std::string> metadata() const {
    return {{"format", "pt"}, {"fluxlora.merged", sources_.dump()}};
  }

  std::span<const std::byte> scale_bytes(size_t layer) {
    scale_ = matrices_.scale(layer);
    return std::as_bytes(std::span(&scale_, 1));
  }

  std::span<const std::byte> part_bytes(size_t layer, const flux::DiffusersPart& part) {
    const Tensor& codes = matrices_.codes(layer);
    if (!matrices_.names()[layer].swapped_halves)
      return bytes_of(codes.slice(0, part.row0, part.rows));
    const auto all = bytes_of(codes);
    const auto half = static_cast<std::ptrdiff_t>(all.size() / 2);
    held_bytes_.assign(all.begin() + half, all.end());
    held_bytes_.insert(held_bytes_.end(), all.begin(), all.begin() + half);
    return held_bytes_;
  }

  void add_vector(Recipe& recipe, const std::string& name, VectorRows rows) {
    const DType dtype = vector_type(model_, rows.name, options_.format);
    recipe.add({name, dtype, {rows.rows}}, [this, rows = std::move(rows), dtype] {
      held_ = vector_in(model_, rows, dtype);
      return bytes_of(held_.view);
    });
  }

  void add_other(Recipe& recipe, const std::string& name) {
    const auto& entry = model_.entry(name);
    recipe.add({name, entry.dtype, entry.shape}, [this, &entry] {
      forget_pages(last_);
      last_ = {entry.data, static_cast<size_t>(entry.bytes)};
      return last_;
    });
  }

  const StoredModel& model_;
  const MergeOptions& options_;
  Matrices matrices_;
  nlohmann::json sources_ = nlohmann::json::array();
  HostTensor held_;
  std::vector<std::byte> held_bytes_;
  float scale_ = 1;
  std::span<const std::byte> last_;
};

/// The transformer of a pipeline's folder, or what the path is itself.
fs::path transformer_of(const std::string& model) {
  if (is_builtin_model(model)) return open_model({model}).transformer;
  const fs::path inside = fs::path(model) / "transformer";
  return folder_exists(inside) ? inside : fs::path(model);
}

/// Copies a pipeline but for its transformer's weights.
void copy_pipeline(const fs::path& transformer, const fs::path& output) {
  const fs::path root = transformer.parent_path();
  std::error_code code;
  fs::copy_file(transformer / "config.json", output / "transformer" / "config.json", code);
  if (!fs::exists(root / "model_index.json")) return;
  for (const auto& entry : fs::directory_iterator(root))
    if (entry.path() != transformer && !code)
      fs::copy(entry.path(), output / entry.path().filename(), fs::copy_options::recursive, code);
  if (code)
    throw environment_error(output.string(), "cannot be written: " + code.message(),
                            "check the disk's space and your rights there");
}

}  // namespace

Merged merge_model(const std::string& model, const std::vector<WeightedLora>& loras,
                   const MergeOptions& options, const fs::path& output) {
  const std::vector<std::string> formats{"same", "f32", "bf16", "f16", "fp8", "fp8-scaled"};
  if (std::find(formats.begin(), formats.end(), options.format) == formats.end())
    throw bad_input("--format " + options.format, "is not a format",
                    "give same, f32, bf16, f16, fp8 or fp8-scaled");
  const fs::path path = transformer_of(model);
  const StoredModel stored(path);
  Merger merger(stored, loras, options);
  if (output.extension() == ".safetensors") {
    merger.write_file(output, file_exists(path));
    return merger.merged();
  }
  const bool from_folder = !file_exists(path) && !is_builtin(path);
  const Format format = format_of(stored, "single_blocks.0.linear1", options.format);
  if (!from_folder || format.dtype == DType::f8_e4m3)
    throw bad_input(output.string(),
                    from_folder ? "diffusers' layout has no fp8"
                                : "a folder needs a model in diffusers' layout",
                    "give a name that ends in .safetensors");
  make_folder(output / "transformer");
  copy_pipeline(path, output);
  merger.write_folder(output / "transformer");
  return merger.merged();
}

}  // namespace fluxlora::exporting
