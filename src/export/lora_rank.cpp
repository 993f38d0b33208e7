// SPDX-License-Identifier: Apache-2.0
#include "export/lora_rank.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "export/alpha_record.h"
#include "export/lora_rows.h"
#include "export/matrices.h"

namespace fluxlora::exporting {
namespace {

/// Adds up what layers lost.
class Account {
 public:
  explicit Account(CutLora& result) : result_(result) {}
  void add(const std::string& name, int64_t rank, double kept, double energy) {
    result_.layers.push_back({name, rank, kept});
    all_ += energy;
    lost_ += (1 - kept) * energy;
    result_.kept = all_ > 0 ? 1 - lost_ / all_ : 1;
  }

 private:
  CutLora& result_;
  double all_ = 0, lost_ = 0;
};

/// Puts the largest part of the spectrum into the module, with alpha = rank.
void take(LoraModule& module, const Spectrum& spectrum, const Cut& cut, DType dtype,
          Account& account) {
  const int64_t rank = spectrum.rank_for(cut.energy, cut.rank);
  Factors factors = factors_of(spectrum, rank, dtype);
  module.kron.clear();
  module.A = std::move(factors.A);
  module.B = std::move(factors.B);
  module.rank = rank;
  module.alpha = static_cast<double>(rank);
  account.add(module.name, rank, spectrum.kept(rank), spectrum.energy);
}

/// A file's alphas no longer stand in its matrices: what remembers them goes.
void forget_alphas(LoraModules& file) {
  file.metadata.erase(kAlphaRecord);
  file.metadata.erase("lora_adapter_metadata");
}

LoraModules without_modules(const LoraModules& file) {
  LoraModules result{file.path, file.metadata, file.sizes, {}};
  forget_alphas(result);
  return result;
}

using RowsOfLayer = std::tuple<Network, std::string, size_t, size_t>;
RowsOfLayer rows_of(const LoraModule& module) {
  const Place& place = module.place;
  return {place.network, place.layer.bfl, place.first, place.count};
}

/// The files with the same rows for the same layers, so that their modules can be added.
std::vector<LoraModules> aligned(const std::vector<LoraModules>& files) {
  std::set<RowsOfLayer> rows;
  for (const LoraModules& file : files)
    for (const LoraModule& module : file.modules) rows.insert(rows_of(module));
  bool overlap = false;
  const RowsOfLayer* before = nullptr;
  for (const RowsOfLayer& now : rows) {
    overlap |= before && std::get<0>(*before) == std::get<0>(now) &&
               std::get<1>(*before) == std::get<1>(now) &&
               std::get<2>(*before) + std::get<3>(*before) > std::get<2>(now);
    before = &now;
  }
  std::vector<LoraModules> result;
  for (const LoraModules& file : files) {
    if (overlap) {
      result.push_back(split(file));
      continue;
    }
    result.push_back({file.path, file.metadata, file.sizes, {}});
    for (const LoraModule& module : file.modules) result.back().modules.push_back(copy_of(module));
  }
  return result;
}

/// One file's module and the factor of its B A in the sum.
struct Summand {
  const LoraModule* module;
  double factor;
};

DType common_type(const std::vector<Summand>& summands) {
  const DType first = summands.front().module->B.view.dtype();
  for (const Summand& s : summands)
    if (s.module->B.view.dtype() != first || s.module->A.view.dtype() != first) return DType::f32;
  return first;
}

HostTensor f64(const Tensor& source) {
  HostTensor result(DType::f64, {source.dim(0), source.dim(1)});
  convert(DType::f64, result.view.data(), source.dtype(), source.data(), source.size());
  return result;
}

HostTensor as(DType dtype, const Tensor& source) {
  HostTensor result(dtype, {source.dim(0), source.dim(1)});
  convert(dtype, result.view.data(), source.dtype(), source.data(), source.size());
  return result;
}

/// All A under each other, all factor B beside each other, f64.
Factors stacked(const std::vector<Summand>& summands) {
  int64_t rank = 0;
  for (const Summand& s : summands) rank += s.module->rank;
  const LoraModule& first = *summands.front().module;
  Factors all{HostTensor(DType::f64, {rank, first.in}), HostTensor(DType::f64, {first.rows, rank})};
  int64_t at = 0;
  for (const Summand& s : summands) {
    const HostTensor a = f64(s.module->A.view), b = f64(s.module->B.view);
    std::memcpy(all.A.view.as<double>() + at * first.in, a.view.data(),
                static_cast<size_t>(a.view.bytes()));
    for (int64_t row = 0; row < first.rows; ++row)
      for (int64_t k = 0; k < s.module->rank; ++k)
        all.B.view.as<double>()[row * rank + at + k] =
            s.factor * b.view.as<double>()[row * s.module->rank + k];
    at += s.module->rank;
  }
  return all;
}

/// Σ √factor A and Σ √factor B; the sign of a negative factor goes to B.
Factors summed(const std::vector<Summand>& summands) {
  const LoraModule& first = *summands.front().module;
  Factors sum{HostTensor(DType::f64, {first.rank, first.in}),
              HostTensor(DType::f64, {first.rows, first.rank})};
  for (const Tensor& matrix : {sum.A.view, sum.B.view})
    std::fill(matrix.as<double>(), matrix.as<double>() + matrix.size(), 0.0);
  const auto add = [](const Tensor& to, const Tensor& from, double factor) {
    const HostTensor numbers = f64(from);
    for (int64_t i = 0; i < to.size(); ++i)
      to.as<double>()[i] += factor * numbers.view.as<double>()[i];
  };
  for (const Summand& s : summands) {
    const double root = std::sqrt(std::abs(s.factor));
    add(sum.A.view, s.module->A.view, root);
    add(sum.B.view, s.module->B.view, s.factor < 0 ? -root : root);
  }
  return sum;
}

void check_can_add(const LoraModules& file, const LoraModule& module, const LoraModule& first,
                   Combination how) {
  const auto fail = [&](const std::string& what, const std::string& hint) {
    throw bad_input(file.path.string(), fmt::format("\"{}\" {}", module.name, what), hint);
  };
  if (module.is_lokr())
    fail("is a LoKr", "make it a LoRA first: fluxlora resize FILE --rank N --output OUT");
  if (module.is_dora()) fail("is a DoRA, whose magnitudes cannot be added", "combine LoRAs");
  if (module.in != first.in || module.rows != first.rows)
    fail("is made for another model than the first file", "combine LoRAs of one model");
  if (how == Combination::linear && module.rank != first.rank)
    fail("has another rank than in the first file", "use --method concatenate or svd");
}

/// Reads one layer of both models and makes a module of the difference, if there is one.
bool difference(const TensorSource& base, const TensorSource& tuned, const std::string& name,
                const std::vector<int64_t>& shape, HostTensor& out) {
  const HostTensor before = base.read(name, shape, DType::f32);
  out = tuned.read(name, shape, DType::f32);
  auto* x = out.view.as<float>();
  const auto* y = before.view.as<float>();
  bool any = false;
  for (int64_t i = 0; i < out.view.size(); ++i) {
    x[i] -= y[i];
    any |= x[i] != 0;
    if (!std::isfinite(x[i]))
      throw bad_input(tuned.path().string(), "\"" + name + "\" holds numbers that are not finite",
                      "give a sound model");
  }
  return any;
}

}  // namespace

CutLora resize(const LoraModules& file, const Cut& cut) {
  CutLora result{without_modules(file), {}, 1};
  Account account(result);
  for (const LoraModule& source : file.modules) {
    LoraModule module = copy_of(source);
    const bool small = source.rank <= cut.rank && cut.energy >= 1;
    if (source.is_lokr()) {
      const DType dtype = source.kron.begin()->second.view.dtype();
      take(module, spectrum_of(source.change().view, cut.rank), cut, dtype, account);
    } else if (small) {
      account.add(source.name, source.rank, 1, 0);
    } else {
      const Spectrum spectrum = spectrum_of_product(source.B.view, source.A.view, source.scale());
      take(module, spectrum, cut, source.B.view.dtype(), account);
    }
    result.lora.modules.push_back(std::move(module));
  }
  return result;
}

CutLora combine(const std::vector<LoraModules>& files, const std::vector<double>& weights,
                Combination how, const Cut& cut) {
  const std::vector<LoraModules> same = aligned(files);
  std::map<RowsOfLayer, std::vector<Summand>> layers;
  for (size_t i = 0; i < same.size(); ++i)
    for (const LoraModule& module : same[i].modules) {
      std::vector<Summand>& summands = layers[rows_of(module)];
      check_can_add(same[i], module, summands.empty() ? module : *summands.front().module, how);
      summands.push_back({&module, weights[i] * module.scale()});
    }
  CutLora result{without_modules(files.front()), {}, 1};
  Account account(result);
  for (const auto& [rows, summands] : layers) {
    LoraModule module = copy_of(*summands.front().module);
    const DType dtype = common_type(summands);
    const Factors all = how == Combination::linear ? summed(summands) : stacked(summands);
    if (how == Combination::svd) {
      take(module, spectrum_of_product(all.B.view, all.A.view, 1), cut, dtype, account);
    } else {
      module.A = as(dtype, all.A.view);
      module.B = as(dtype, all.B.view);
      module.rank = all.A.view.dim(0);
      module.alpha = static_cast<double>(module.rank);
      account.add(module.name, module.rank, 1, 0);
    }
    result.lora.modules.push_back(std::move(module));
  }
  return result;
}

CutLora extract(const TensorSource& base, const TensorSource& tuned, const flux::Config& config,
                const Cut& cut, const std::function<void(const std::string&)>& progress,
                std::vector<std::string>& other_differences) {
  CutLora result;
  result.lora.path = tuned.path();
  result.lora.sizes = config;
  Account account(result);
  HostTensor change;
  for (const flux::LinearName& layer : flux::linear_names(config)) {
    progress(layer.bfl);
    if (difference(base, tuned, layer.bfl + ".weight", {layer.out, layer.in}, change)) {
      LoraModule module;
      module.name = layer.bfl;
      module.place.layer = layer;
      module.place.count = layer.parts.size();
      module.rows = layer.out;
      module.in = layer.in;
      take(module, spectrum_of(change.view, cut.rank), cut, DType::f32, account);
      result.lora.modules.push_back(std::move(module));
    }
    if (difference(base, tuned, layer.bfl + ".bias", {layer.out}, change))
      other_differences.push_back(layer.bfl + ".bias");
  }
  for (const flux::NormName& norm : flux::norm_names(config))
    if (difference(base, tuned, norm.bfl + ".scale", {config.K}, change))
      other_differences.push_back(norm.bfl + ".scale");
  if (result.lora.modules.empty())
    throw bad_input(tuned.path().string(), "its linear layers are those of the base model",
                    "give the fine-tuned model with --tuned");
  return result;
}

}  // namespace fluxlora::exporting
