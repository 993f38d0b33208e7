// SPDX-License-Identifier: Apache-2.0
// The one part of spiece.model that libsentencepiece 0.1.97 does not give away: the normaliser's
// table.
#pragma once

#include <optional>
#include <string_view>

namespace fluxlora {

/// ModelProto.normalizer_spec (3), precompiled_charsmap (2): a view into `bytes`, empty if the
/// model has none; nothing when the outermost fields are damaged (flux-facts 5.4).
std::optional<std::string_view> find_charsmap(std::string_view bytes);

}  // namespace fluxlora
