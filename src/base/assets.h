// SPDX-License-Identifier: Apache-2.0
// Files that are part of the program: cmake/embed.cmake puts the folders of assets/ that it lists
// into the binary. Reached through base/file.h as "builtin:NAME".
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fluxlora {

/// The bytes of assets/NAME, say "tiny-flux/transformer/config.json"; 64-byte aligned. "a//b" and
/// "a/./b" mean "a/b".
std::optional<std::span<const std::byte>> find_asset(std::string_view name);

/// All names that begin with `prefix`, sorted.
std::vector<std::string> asset_names(std::string_view prefix);

}  // namespace fluxlora
