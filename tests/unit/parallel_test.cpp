// SPDX-License-Identifier: Apache-2.0
// parallel_for covers every index once, in pieces that do not depend on timing.
#include "base/parallel.h"

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace fluxlora {
namespace {

using Pieces = std::set<std::pair<int64_t, int64_t>>;

Pieces pieces_of(int64_t count, int64_t grain) {
  Pieces pieces;
  std::mutex mutex;
  parallel_for(count, grain, [&](int64_t first, int64_t last) {
    std::lock_guard lock(mutex);
    pieces.emplace(first, last);
  });
  return pieces;
}

class Parallel : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { set_thread_count(GetParam()); }
  void TearDown() override { set_thread_count(1); }
};

TEST_P(Parallel, CoversTheRangeOnce) {
  for (const int64_t count : {0, 1, 2, 3, 7, 64, 1000, 1001})
    for (const int64_t grain : {1, 3, 16, 5000}) {
      const Pieces pieces = pieces_of(count, grain);
      int64_t next = 0;
      for (const auto& [first, last] : pieces) {
        EXPECT_EQ(first, next);
        EXPECT_LT(first, last);
        EXPECT_TRUE(last == count || (last - first) % grain == 0);
        next = last;
      }
      EXPECT_EQ(next, count);
    }
}

TEST_P(Parallel, TheSplitIsAlwaysTheSame) {
  const Pieces first = pieces_of(1001, 8);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(pieces_of(1001, 8), first);
}

TEST_P(Parallel, ManyJobsInARow) {
  std::vector<int64_t> sums(100, 0);
  for (int round = 0; round < 300; ++round)
    parallel_for(100, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) sums[static_cast<size_t>(i)] += i;
    });
  for (int64_t i = 0; i < 100; ++i) EXPECT_EQ(sums[static_cast<size_t>(i)], 300 * i);
}

TEST_P(Parallel, NestedCallsRunInTheCallingThread) {
  std::atomic<int64_t> sum{0};
  parallel_for(8, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      parallel_for(10, 1, [&](int64_t a, int64_t b) { sum += (b - a) * i; });
  });
  EXPECT_EQ(sum, 10 * 28);
}

TEST_P(Parallel, ExceptionsReachTheCaller) {
  for (int round = 0; round < 3; ++round) {
    EXPECT_THROW(parallel_for(64, 1,
                              [](int64_t first, int64_t last) {
                                for (int64_t i = first; i < last; ++i)
                                  if (i == 63) throw std::runtime_error("piece");
                              }),
                 std::runtime_error);
    EXPECT_FALSE(pieces_of(64, 1).empty());
  }
}

// Scratch memory of a thread is found by its index: no two ranges of one job may share it.
TEST_P(Parallel, RangesHaveThreadsOfTheirOwn) {
  std::multiset<int> seen;
  std::mutex mutex;
  parallel_for(1000, 1, [&](int64_t, int64_t) {
    std::lock_guard lock(mutex);
    seen.insert(thread_index());
  });
  EXPECT_EQ(seen.size(), static_cast<size_t>(thread_count()));
  int next = 0;
  for (const int index : seen) EXPECT_EQ(index, next++);
  EXPECT_EQ(thread_index(), 0);
}

INSTANTIATE_TEST_SUITE_P(Threads, Parallel, ::testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace fluxlora
