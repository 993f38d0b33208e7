// SPDX-License-Identifier: Apache-2.0
#include "cli/lora_layers.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <regex>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/parallel.h"

namespace fluxlora::cli {
namespace {

constexpr std::string_view kAlpha = ".alpha";

struct Spelling {
  std::string_view a, b;
};
constexpr Spelling kSpellings[] = {{".lora_A.weight", ".lora_B.weight"},
                                   {".lora_down.weight", ".lora_up.weight"},
                                   {".lora.down.weight", ".lora.up.weight"}};

/// The tensors of a module; empty names for what is missing.
struct Parts {
  std::string a, b, alpha;
};

std::map<std::string, Parts> group(const SafetensorsFile& file) {
  std::map<std::string, Parts> modules;
  const auto stem = [](const std::string& name, std::string_view ending) {
    return name.substr(0, name.size() - ending.size());
  };
  for (const std::string& name : file.names()) {
    for (const Spelling& spelling : kSpellings) {
      if (name.ends_with(spelling.a)) modules[stem(name, spelling.a)].a = name;
      if (name.ends_with(spelling.b)) modules[stem(name, spelling.b)].b = name;
    }
  }
  for (const std::string& name : file.names()) {
    if (!name.ends_with(kAlpha)) continue;
    const auto module = modules.find(stem(name, kAlpha));
    if (module != modules.end()) module->second.alpha = name;
  }
  return modules;
}

/// Alphas of PEFT's LoraConfig, each key with the component in front ("transformer.lora_alpha").
class PeftAlpha {
 public:
  explicit PeftAlpha(const SafetensorsFile& file) {
    const auto entry = file.metadata().find("lora_adapter_metadata");
    if (entry == file.metadata().end()) return;
    config_ = nlohmann::json::parse(entry->second, nullptr, /*allow_exceptions=*/false);
    if (!config_.is_object()) config_ = nullptr;
  }

  std::optional<double> of(const std::string& module, int64_t rank) const {
    if (!config_.is_object()) return std::nullopt;
    const std::string component = module.substr(0, module.find('.')) + ".";
    const std::string rest = module.substr(std::min(component.size(), module.size()));
    std::optional<double> alpha = number(component + "lora_alpha");
    const auto pattern = config_.find(component + "alpha_pattern");
    if (pattern != config_.end() && pattern->is_object())
      for (const auto& [key, value] : pattern->items())
        if (value.is_number() && (rest == key || rest.ends_with("." + key)))
          alpha = value.get<double>();
    const auto rs = config_.find(component + "use_rslora");
    // rsLoRA divides by the root of the rank; alpha here is the one that alpha / rank needs.
    if (alpha && rs != config_.end() && rs->is_boolean() && rs->get<bool>())
      alpha = *alpha * std::sqrt(static_cast<double>(rank));
    return alpha;
  }

 private:
  std::optional<double> number(const std::string& key) const {
    const auto found = config_.find(key);
    if (found == config_.end() || !found->is_number()) return std::nullopt;
    return found->get<double>();
  }

  nlohmann::json config_;
};

double dot(const double* x, const double* y, int64_t n) {
  double sums[4] = {0, 0, 0, 0};  // four chains, so that the sum is not one long wait
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int64_t k = 0; k < 4; ++k) sums[k] += x[i + k] * y[i + k];
  for (; i < n; ++i) sums[0] += x[i] * y[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/// |B A| from the Gram matrices: |B A|² = Σ_ij (A Aᵀ)_ij (Bᵀ B)_ij; the product itself, as large
/// as the layer, is never formed. a (rank, in), bt (rank, out).
double product_norm(const std::vector<double>& a, const std::vector<double>& bt,
                    const LoraLayer& layer) {
  double sum = 0;
  for (int64_t i = 0; i < layer.rank; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      const double grams = dot(&a[i * layer.in], &a[j * layer.in], layer.in) *
                           dot(&bt[i * layer.out], &bt[j * layer.out], layer.out);
      sum += i == j ? grams : 2 * grams;
    }
  return std::sqrt(std::max(sum, 0.0));
}

void measure(const SafetensorsFile& file, const Parts& parts, LoraLayer& layer) {
  const HostTensor a_file = file.read(parts.a, DType::f64), b_file = file.read(parts.b, DType::f64);
  const double *a = a_file.view.as<double>(), *b = b_file.view.as<double>();
  const std::vector<double> a_rows(a, a + layer.rank * layer.in);
  std::vector<double> b_columns(static_cast<size_t>(layer.rank * layer.out));
  for (int64_t o = 0; o < layer.out; ++o)
    for (int64_t r = 0; r < layer.rank; ++r) b_columns[r * layer.out + o] = b[o * layer.rank + r];
  for (const std::vector<double>* values : {&a_rows, &std::as_const(b_columns)})
    for (const double value : *values)
      layer.largest = std::isfinite(value) ? std::max(layer.largest, std::abs(value)) : NAN;
  layer.norm = std::isfinite(layer.largest) && std::isfinite(layer.scale())
                   ? std::abs(layer.scale()) * product_norm(a_rows, b_columns, layer)
                   : NAN;
}

bool is_floating(DType dtype) {
  return dtype != DType::i64 && dtype != DType::i32 && dtype != DType::i16 && dtype != DType::i8 &&
         dtype != DType::u8 && dtype != DType::boolean;
}

/// The shapes of a pair; a 1x1 convolution counts as a linear layer. Says what is wrong, if
/// anything.
std::string read_shapes(const SafetensorsFile& file, const Parts& parts, LoraLayer& layer) {
  if (parts.b.empty()) return "has an A and no B";
  if (parts.a.empty()) return "has a B and no A";
  const auto matrix = [&](const std::string& name) {
    std::vector<int64_t> shape = file.entry(name).shape;
    while (shape.size() > 2 && shape.back() == 1) shape.pop_back();
    return shape;
  };
  const auto a = matrix(parts.a), b = matrix(parts.b);
  if (a.size() != 2 || b.size() != 2) return "is not a pair of matrices";
  if (!is_floating(file.entry(parts.a).dtype) || !is_floating(file.entry(parts.b).dtype))
    return "does not hold floating-point numbers";
  if (a[0] != b[1] || a[0] < 1 || a[1] < 1 || b[0] < 1)
    return fmt::format("A is {}x{} and B {}x{}, which do not fit", a[0], a[1], b[0], b[1]);
  layer.rank = a[0];
  layer.in = a[1];
  layer.out = b[0];
  return "";
}

/// Numbers in a name count as numbers: block 10 follows block 9.
bool natural_less(const LoraLayer& x, const LoraLayer& y) {
  const std::string &a = x.name, &b = y.name;
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (!digit(a[i]) || !digit(b[j])) {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i, ++j;
      continue;
    }
    size_t i_end = i, j_end = j;
    while (i_end < a.size() && digit(a[i_end])) ++i_end;
    while (j_end < b.size() && digit(b[j_end])) ++j_end;
    if (i_end - i != j_end - j) return i_end - i < j_end - j;
    const int order = a.compare(i, i_end - i, b, j, j_end - j);
    if (order != 0) return order < 0;
    i = i_end, j = j_end;
  }
  return a.size() - i < b.size() - j;
}

}  // namespace

bool LoraLayer::finite() const {
  return std::isfinite(norm);
}

LoraDialect lora_dialect(const SafetensorsFile& file) {
  bool any = false;
  for (const std::string& name : file.names()) {
    for (const Spelling& spelling : kSpellings) any |= name.ends_with(spelling.a);
    if (name.starts_with("lora_") && name.ends_with(".lora_down.weight")) return LoraDialect::kohya;
    const bool component = name.starts_with("transformer.") || name.starts_with("text_encoder.");
    if (component && name.ends_with(".lora_A.weight")) return LoraDialect::diffusers;
  }
  return any ? LoraDialect::other : LoraDialect::none;
}

LoraLayers read_lora_layers(const SafetensorsFile& file) {
  static const std::regex kBlockNumber("(blocks|layers|block|layer)([._])[0-9]+");
  const PeftAlpha peft(file);
  LoraLayers found;
  std::vector<std::pair<LoraLayer, Parts>> whole;
  for (const auto& [name, parts] : group(file)) {
    LoraLayer layer;
    layer.name = name;
    layer.block_type = std::regex_replace(name, kBlockNumber, "$1$2*");
    const std::string fault = read_shapes(file, parts, layer);
    if (!fault.empty()) {
      found.broken.push_back(fmt::format("{}: {}", name, fault));
      continue;
    }
    layer.alpha = peft.of(name, layer.rank).value_or(static_cast<double>(layer.rank));
    if (!parts.alpha.empty()) {
      const HostTensor alpha = file.read(parts.alpha, DType::f64);
      if (alpha.view.size() == 1 && alpha.view.dtype() == DType::f64)
        layer.alpha = alpha.view.as<double>()[0];
    }
    whole.emplace_back(std::move(layer), parts);
  }
  parallel_for(static_cast<int64_t>(whole.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      measure(file, whole[static_cast<size_t>(i)].second, whole[static_cast<size_t>(i)].first);
  });
  for (auto& [layer, parts] : whole) found.layers.push_back(std::move(layer));
  std::stable_sort(found.layers.begin(), found.layers.end(), natural_less);
  return found;
}

}  // namespace fluxlora::cli
