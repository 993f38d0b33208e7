// SPDX-License-Identifier: Apache-2.0
// The planner on made-up blocks: never above a budget, never slower with more of it, and as good as
// trying everything where everything can be tried.
#include "memory/plan.h"

#include <gtest/gtest.h>

#include "base/philox.h"

namespace fluxlora {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

PlanProblem random_problem(uint64_t seed, size_t heavy, size_t light) {
  Philox random(seed, Draw::noise);
  const auto between = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random.below(static_cast<uint32_t>(high - low + 1)));
  };
  const auto block = [&](int64_t weight) {
    PlanBlock b;
    b.weights = {weight, weight / 4};
    b.forward = 1e-3 * static_cast<double>(between(1, 5));
    b.backward = 2.5 * b.forward;
    int64_t kept = between(10, 40) * kMiB;
    double remake = b.forward;
    for (int level = 0; level < 4; ++level) {
      b.levels.push_back(
          {kept, {level < 3 ? 60 * kMiB : 0, level < 3 ? 90 * kMiB : 0}, level < 3 ? remake : 0});
      kept += between(20, 90) * kMiB;
      remake *= 0.5;
    }
    return b;
  };
  PlanProblem p;
  const PlanBlock a = block(300 * kMiB), b = block(150 * kMiB);
  p.blocks.assign(heavy, a);
  p.blocks.insert(p.blocks.end(), light, b);
  p.fixed = 500 * kMiB;
  p.link = 25e9;
  return p;
}

TEST(Planner, WithoutALimitNothingIsMadeAgainAndNothingVisits) {
  const PlanProblem p = random_problem(1, 3, 6);
  const auto plan = make_plan(p);
  ASSERT_TRUE(plan);
  for (const size_t level : plan->level) EXPECT_EQ(level, 3u);
  EXPECT_EQ(plan->host_bytes, 0);
  double seconds = 0;
  for (const PlanBlock& b : p.blocks) seconds += b.forward + b.backward;
  EXPECT_NEAR(plan->seconds, seconds, 1e-12);
}

TEST(Planner, StaysWithinEveryBudgetAndIsNeverSlowerWithMore) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    PlanProblem p = random_problem(seed, 4, 8);
    const int64_t least = smallest_plan(p).device_bytes, most = make_plan(p)->device_bytes;
    double last = std::numeric_limits<double>::infinity();
    for (int i = 0; i <= 12; ++i) {
      p.budget = least + (most - least) * i / 12;
      const auto plan = make_plan(p);
      ASSERT_TRUE(plan) << seed << " " << i;
      EXPECT_LE(plan->device_bytes, p.budget);
      EXPECT_LE(plan->seconds, last * 1.0001) << seed << " " << i;
      last = plan->seconds;
    }
    p.budget = least - 1;
    EXPECT_FALSE(make_plan(p));
  }
}

TEST(Planner, KeepsTheHostsBudgetToo) {
  PlanProblem p = random_problem(3, 4, 8);
  p.budget = smallest_plan(p).device_bytes + 200 * kMiB;
  const auto free = make_plan(p);
  ASSERT_TRUE(free);
  ASSERT_GT(free->host_bytes, 0);
  p.host_budget = free->host_bytes;
  EXPECT_EQ(make_plan(p)->host_bytes, free->host_bytes);
  p.host_budget = kMiB;
  EXPECT_FALSE(make_plan(p));
}

/// The fastest of all plans that differ in levels and visitors, by trying them.
double best_of_all(const PlanProblem& p) {
  const size_t n = p.blocks.size();
  double best = std::numeric_limits<double>::infinity();
  for (size_t visits = 0; visits < size_t{1} << n; ++visits)
    for (size_t levels = 0; levels < size_t{1} << (2 * n); ++levels) {
      Plan plan;
      for (size_t b = 0; b < n; ++b) {
        plan.level.push_back(levels >> (2 * b) & 3);
        plan.visits[0].push_back(visits >> b & 1);
      }
      plan.visits[1].assign(n, false);
      int64_t bytes = p.fixed, shared[2] = {0, 0}, places[2] = {0, 0};
      size_t piece = 0;
      for (size_t b = 0; b < n; ++b) {
        const auto& level = p.blocks[b].levels[plan.level[b]];
        bytes += level.kept + p.blocks[b].weights[1];
        for (int i : {0, 1}) shared[i] = std::max(shared[i], level.shared[static_cast<size_t>(i)]);
        if (plan.visits[0][b]) {
          int64_t& place = places[piece++ % 2];
          place = std::max(place, p.blocks[b].weights[0]);
        } else {
          bytes += p.blocks[b].weights[0];
        }
      }
      if (bytes + shared[0] + shared[1] + places[0] + places[1] > p.budget) continue;
      best = std::min(best, simulate(p, plan));
    }
  return best;
}

// It does not try everything: what it finds may be a little slower than the best.
TEST(Planner, IsCloseToTheBestOfAllPlans) {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    PlanProblem p = random_problem(seed, 1, 4);
    for (PlanBlock& b : p.blocks) b.weights[1] = 0;
    const int64_t least = smallest_plan(p).device_bytes, most = make_plan(p)->device_bytes;
    for (const int64_t part : {1, 2, 3}) {
      p.budget = least + (most - least) * part / 4;
      EXPECT_LE(make_plan(p)->seconds, 1.15 * best_of_all(p)) << seed << " " << part;
    }
  }
}

TEST(Simulation, AVisitorWaitsForTheLinkAndHidesBehindWork) {
  PlanProblem p;
  PlanBlock b;
  b.levels = {{0, {}, 0}};
  b.forward = 1;
  b.backward = 1;
  b.weights = {100, 0};
  p.blocks.assign(6, b);
  Plan plan;
  plan.level.assign(6, 0);
  plan.visits[0].assign(6, true);
  plan.visits[1].assign(6, false);
  p.link = 1000;  // 0.1 s a visit: each is there before its turn
  EXPECT_NEAR(simulate(p, plan), 12, 1e-9);
  // 3 s a visit: up, four of six must be fetched, the first wait begins when block 0 is done at 1;
  // they arrive at 4, 7, 10, 13, the last work ends at 14. Down, two are still there: 16. The next
  // four are fetched from 15 (the first place is free) on: 18, 21, 24, 27, then one more second.
  p.link = 100.0 / 3;
  EXPECT_NEAR(simulate(p, plan), 28, 1e-9);
}

}  // namespace
}  // namespace fluxlora
