// SPDX-License-Identifier: Apache-2.0
// The name that somebody probably meant.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace fluxlora {

/// How many letters must be added, removed, replaced or swapped with their neighbour to turn `a`
/// into `b` (optimal string alignment; Damerau 1964). Upper and lower case count as equal.
size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate with the smallest distance to `word`, the first of equals; nothing when even that
/// one is too different to be a slip of the hand: more than a third of its letters, and more than
/// one.
std::optional<std::string> nearest_name(std::string_view word,
                                        std::span<const std::string> candidates);

}  // namespace fluxlora
