// SPDX-License-Identifier: Apache-2.0
#include "export/alpha_record.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "export/lora_rows.h"
#include "export/peft_config.h"

namespace fluxlora::exporting {
namespace {

/// A module's name in the record: that of the rows it has in the file with the record.
std::string record_name(const LoraModule& module) {
  const Place& place = module.place;
  return place.count > 1 ? place.layer.bfl : place.layer.parts[place.first].module;
}

bool is_power_of_two(double x) {
  int exponent = 0;
  return x > 0 && std::frexp(x, &exponent) == 0.5;
}

/// B times `factor`, in B's type.
HostTensor scaled(const Tensor& b, double factor) {
  HostTensor result(b.dtype(), {b.dim(0), b.dim(1)});
  convert(b.dtype(), result.view.data(), b.dtype(), b.data(), b.size(), factor);
  return result;
}

double relative_difference(const Tensor& x, const Tensor& y) {
  HostTensor numbers[2];
  for (int i = 0; i < 2; ++i) {
    const Tensor& source = i ? y : x;
    numbers[i] = HostTensor(DType::f64, {source.size()});
    convert(DType::f64, numbers[i].view.data(), source.dtype(), source.data(), source.size());
  }
  double difference = 0, size = 0;
  for (int64_t i = 0; i < x.size(); ++i) {
    const double a = numbers[0].view.as<double>()[i], b = numbers[1].view.as<double>()[i];
    difference += (a - b) * (a - b);
    size += b * b;
  }
  return size > 0 ? std::sqrt(difference / size) : 0;
}

const char* component(const LoraModule& module) {
  return module.place.network == Network::clip ? "text_encoder" : "transformer";
}

/// Whether PEFT's entry of the metadata says what the modules' alphas are.
bool peft_says_so(const LoraModules& file) {
  if (file.metadata.count(kPeftEntry) == 0) return false;
  const PeftConfig peft(file.path, file.metadata);
  return std::all_of(file.modules.begin(), file.modules.end(), [&](const LoraModule& m) {
    return peft.alpha(component(m), record_name(m), m.rank) == m.alpha;
  });
}

std::string record_of(const std::map<std::string, double>& alphas,
                      const std::optional<DType>& dtype) {
  nlohmann::json record;
  if (dtype) record["dtype"] = safetensors_name(*dtype);
  std::set<double> distinct;
  for (const auto& [name, alpha] : alphas) distinct.insert(alpha);
  if (distinct.size() == 1)
    record["alpha"] = *distinct.begin();
  else
    record["modules"] = alphas;
  return record.dump();
}

}  // namespace

double fold_alphas(LoraModules& file) {
  if (peft_says_so(file)) return 0;
  file.metadata.erase(kPeftEntry);
  std::map<std::string, double> alphas;
  std::optional<DType> dtype;
  bool any = false;
  double worst = 0;
  for (LoraModule& module : file.modules) {
    if (module.is_lokr()) continue;
    const double s = module.scale();
    alphas[record_name(module)] = module.alpha;
    if (module.alpha_dtype) dtype = module.alpha_dtype;
    any |= s != 1 || (module.alpha_dtype && module.alpha_dtype != module.B.view.dtype());
    module.alpha = static_cast<double>(module.rank);
    module.alpha_dtype.reset();
    if (s == 1) continue;
    HostTensor folded = scaled(module.B.view, s);
    const HostTensor back = scaled(folded.view, 1 / s);
    worst = std::max(worst, relative_difference(back.view, module.B.view));
    module.B = std::move(folded);
  }
  if (any) file.metadata[kAlphaRecord] = record_of(alphas, dtype);
  return worst;
}

LoraModules restore_alphas(const LoraModules& file) {
  LoraModules result{file.path, file.metadata, file.sizes, {}};
  for (const LoraModule& module : file.modules) result.modules.push_back(copy_of(module));
  const auto found = result.metadata.find(kAlphaRecord);
  if (found == result.metadata.end()) return result;
  const auto record = nlohmann::json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  result.metadata.erase(found);
  if (!record.is_object()) return result;
  const bool one = record.contains("alpha") && record["alpha"].is_number();
  const auto type = record.value("dtype", nlohmann::json());
  for (LoraModule& module : result.modules) {
    if (module.is_lokr() || module.alpha_dtype) continue;
    const auto& listed = record.value("modules", nlohmann::json::object());
    const std::string name = record_name(module);
    const bool known =
        one || (listed.is_object() && listed.contains(name) && listed[name].is_number());
    if (!known) continue;
    const double alpha = one ? record["alpha"].get<double>() : listed[name].get<double>();
    const double s = alpha / static_cast<double>(module.rank);
    if (!is_power_of_two(s)) continue;
    module.B = scaled(module.B.view, 1 / s);
    module.alpha = alpha;
    if (type.is_string())
      module.alpha_dtype = dtype_from_safetensors(type.get<std::string>(), file.path.string());
  }
  return result;
}

void swap_rows(const LoraModules& file, LoraModule& module) {
  if (module.is_lokr())
    throw bad_input(file.path.string(),
                    "\"" + module.name + "\" is a LoKr of a layer whose halves must be exchanged",
                    "leave it out: diffusers does not read LoKr");
  swap_halves(module.B.view);
  if (module.is_dora()) swap_halves(module.magnitude.view);
}

}  // namespace fluxlora::exporting
