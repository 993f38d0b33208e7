// SPDX-License-Identifier: Apache-2.0
#include "base/pages.h"

#include <cstdint>

#include <sys/mman.h>
#include <unistd.h>

namespace fluxlora {

void forget_pages(std::span<const std::byte> mapped) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(mapped.data());
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t last = (begin + mapped.size()) / page * page;
  // Advice alone: where it is not taken nothing else changes.
  if (last > first) (void)::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace fluxlora
