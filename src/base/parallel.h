// SPDX-License-Identifier: Apache-2.0
// One pool of threads for the whole program. Work is cut by index, never by timing, so that results
// do not depend on which thread took which piece.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace fluxlora {

/// Threads in use: all cores that the process may run on, or FLUXLORA_THREADS.
int thread_count();

/// Changes the number of threads, 1 or more. Not to be called while parallel_for runs.
void set_thread_count(int count);

/// Which thread of the pool is running, 0 .. thread_count() - 1; 0 outside of parallel_for.
int thread_index();

namespace detail {
using RangeBody = void (*)(void* body, int64_t first, int64_t last);
void parallel_ranges(int64_t count, int64_t grain, RangeBody call, void* body);
}  // namespace detail

/// Calls body(first, last) on disjoint ranges that cover [0, count), on all threads, and waits.
/// A range is a multiple of `grain` long but for the last. The split depends only on count, grain
/// and thread_count(). A nested call runs in the calling thread. Exceptions reach the caller.
template <typename Body>
void parallel_for(int64_t count, int64_t grain, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  detail::parallel_ranges(
      count, grain,
      [](void* b, int64_t first, int64_t last) { (*static_cast<Plain*>(b))(first, last); },
      const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

}  // namespace fluxlora
