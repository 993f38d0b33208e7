// SPDX-License-Identifier: Apache-2.0
// Alpha as PEFT keeps it: in a LoraConfig, not in tensors (flux-facts 3.1).
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

namespace fluxlora::exporting {

/// The entry of the metadata that holds LoraConfigs, each key with its component in front
/// ("transformer.lora_alpha").
inline constexpr const char* kPeftEntry = "lora_adapter_metadata";

/// The LoraConfig of a file's metadata, else of the adapter_config.json beside it.
class PeftConfig {
 public:
  /// Throws Error (bad_input) when it is not a JSON object or its alpha no number.
  PeftConfig(const std::filesystem::path& file, const std::map<std::string, std::string>& metadata);

  /// The alpha of `module` (diffusers' name) of `component` ("transformer", "text_encoder") for
  /// which alpha / rank is the scale, with rsLoRA's division by the root of the rank in it.
  std::optional<double> alpha(const std::string& component, const std::string& module,
                              int64_t rank) const;

 private:
  const nlohmann::json* entry(const std::string& component, const char* key) const;

  std::filesystem::path path_;
  bool prefixed_ = true;
  nlohmann::json config_;
};

}  // namespace fluxlora::exporting
