// SPDX-License-Identifier: Apache-2.0
#include "base/assets.h"

#include <algorithm>
#include <filesystem>

// One row of the table in the generated assembly; the order of the fields is written there too. A
// row without a name ends the table.
extern "C" {
struct fluxlora_asset {
  const char* name;
  const std::byte* begin;
  const std::byte* end;
};
extern const fluxlora_asset fluxlora_assets[];
}

namespace fluxlora {

std::optional<std::span<const std::byte>> find_asset(std::string_view name) {
  const std::string wanted = std::filesystem::path(name).lexically_normal().string();
  for (const fluxlora_asset* asset = fluxlora_assets; asset->name; ++asset)
    if (wanted == asset->name) return std::span(asset->begin, asset->end);
  return std::nullopt;
}

std::vector<std::string> asset_names(std::string_view prefix) {
  std::vector<std::string> names;
  for (const fluxlora_asset* asset = fluxlora_assets; asset->name; ++asset)
    if (std::string_view(asset->name).starts_with(prefix)) names.emplace_back(asset->name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace fluxlora
