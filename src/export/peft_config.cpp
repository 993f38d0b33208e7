// SPDX-License-Identifier: Apache-2.0
#include "export/peft_config.h"

#include <cmath>

#include "base/error.h"
#include "base/file.h"

namespace fluxlora::exporting {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what) {
  throw bad_input(path.string(), "PEFT's configuration of the LoRA " + what,
                  "save the LoRA again with the program that made it");
}

}  // namespace

PeftConfig::PeftConfig(const std::filesystem::path& file,
                       const std::map<std::string, std::string>& metadata)
    : path_(file) {
  const auto found = metadata.find(kPeftEntry);
  const std::filesystem::path beside = file.parent_path() / "adapter_config.json";
  if (found != metadata.end()) {
    config_ = nlohmann::json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  } else if (file.filename() == "adapter_model.safetensors" && file_exists(beside)) {
    path_ = beside;
    prefixed_ = false;
    config_ = nlohmann::json::parse(read_text(beside), nullptr, /*allow_exceptions=*/false);
  } else {
    return;
  }
  if (!config_.is_object()) fail(path_, "is not a JSON object");
}

const nlohmann::json* PeftConfig::entry(const std::string& component, const char* key) const {
  const auto found = config_.find(prefixed_ ? component + "." + key : std::string(key));
  return found == config_.end() ? nullptr : &*found;
}

std::optional<double> PeftConfig::alpha(const std::string& component, const std::string& module,
                                        int64_t rank) const {
  if (config_.is_null()) return std::nullopt;
  const nlohmann::json* common = entry(component, "lora_alpha");
  if (!common || common->is_null()) return std::nullopt;
  if (!common->is_number()) fail(path_, "has no number under \"lora_alpha\"");
  double alpha = common->get<double>();
  const nlohmann::json* pattern = entry(component, "alpha_pattern");
  if (pattern && pattern->is_object())
    for (const auto& [name, value] : pattern->items())
      if (value.is_number() && (module == name || module.ends_with("." + name)))
        alpha = value.get<double>();
  const nlohmann::json* rslora = entry(component, "use_rslora");
  const bool by_root = rslora && rslora->is_boolean() && rslora->get<bool>();
  return by_root ? alpha * std::sqrt(static_cast<double>(rank)) : alpha;
}

}  // namespace fluxlora::exporting
