// SPDX-License-Identifier: Apache-2.0
// Memory maps and the memory that they hold.
#pragma once

#include <cstddef>
#include <span>

namespace fluxlora {

/// The bytes, part of a mapped file that is only read, need not stay in this process's memory:
/// touched again they are read from the file again. Whole pages only.
void forget_pages(std::span<const std::byte> mapped);

}  // namespace fluxlora
