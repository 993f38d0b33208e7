// SPDX-License-Identifier: Apache-2.0
#include "memory/plan.h"

#include <algorithm>

#include "base/error.h"

namespace fluxlora {
namespace {

constexpr std::array<size_t, 2> kBothParts{0, 1};

/// Bytes of the two places that a part's visitors share: piece i of them takes place i % 2.
int64_t places(const PlanProblem& problem, const Plan& plan, size_t part) {
  int64_t largest[2] = {0, 0};
  size_t piece = 0;
  for (size_t n = 0; n < problem.blocks.size(); ++n)
    if (plan.visits[part][n]) {
      int64_t& place = largest[piece++ % 2];
      place = std::max(place, problem.blocks[n].weights[part]);
    }
  return largest[0] + largest[1];
}

/// Sets the plan's bytes.
void weigh(const PlanProblem& problem, Plan& plan) {
  plan.device_bytes = problem.fixed;
  plan.host_bytes = 0;
  std::array<int64_t, 2> shared{};
  for (size_t n = 0; n < problem.blocks.size(); ++n) {
    const PlanBlock& block = problem.blocks[n];
    const PlanBlock::Level& level = block.levels[plan.level[n]];
    plan.device_bytes += level.kept;
    for (size_t i : {0u, 1u}) shared[i] = std::max(shared[i], level.shared[i]);
    for (const size_t part : kBothParts)
      (plan.visits[part][n] ? plan.host_bytes : plan.device_bytes) += block.weights[part];
  }
  plan.device_bytes += shared[0] + shared[1];
  for (const size_t part : kBothParts) plan.device_bytes += places(problem, plan, part);
}

bool fits(const PlanProblem& problem, const Plan& plan) {
  return (!problem.budget || plan.device_bytes <= problem.budget) &&
         (!problem.host_budget || plan.host_bytes <= problem.host_budget);
}

/// `count` of the blocks [first, last), evenly spread, so that the link never waits long.
void spread(std::vector<bool>& visits, size_t first, size_t last, size_t count) {
  const size_t all = last - first;
  for (size_t k = 0; k < count; ++k) visits[first + (2 * k + 1) * all / (2 * count)] = true;
}

/// Raises levels while they fit, what saves the most time for a byte first.
void keep_what_fits(const PlanProblem& problem, Plan& plan) {
  while (true) {
    double best = 0;
    size_t best_block = 0, best_level = 0;
    for (size_t n = 0; n < problem.blocks.size(); ++n) {
      const auto& levels = problem.blocks[n].levels;
      const size_t now = plan.level[n];
      for (size_t l = now + 1; l < levels.size(); ++l) {
        const double bytes =
            static_cast<double>(std::max<int64_t>(levels[l].kept - levels[now].kept, 1));
        const double gain = (levels[now].remake - levels[l].remake) / bytes;
        if (gain <= best) continue;
        plan.level[n] = l;
        weigh(problem, plan);
        plan.level[n] = now;
        if (!fits(problem, plan)) continue;
        best = gain;
        best_block = n;
        best_level = l;
      }
    }
    if (best == 0) break;
    plan.level[best_block] = best_level;
  }
  weigh(problem, plan);
}

Plan empty_plan(const PlanProblem& problem) {
  Plan plan;
  plan.level.assign(problem.blocks.size(), 0);
  for (auto& part : plan.visits) part.assign(problem.blocks.size(), false);
  return plan;
}

}  // namespace

double simulate(const PlanProblem& problem, const Plan& plan) {
  const size_t count = problem.blocks.size();
  // Each step of the walk: up through all blocks, then down.
  std::vector<size_t> walk;
  for (size_t n = 0; n < count; ++n) walk.push_back(n);
  for (size_t n = count; n-- > 0;) walk.push_back(n);
  std::array<std::vector<size_t>, 2> wanted;  // by part: steps of the walk that read a visitor
  for (const size_t part : kBothParts)
    for (size_t s = 0; s < walk.size(); ++s)
      if (plan.visits[part][walk[s]] && (s < count || problem.backward_reads[part]))
        wanted[part].push_back(s);
  // At the turn the last two visitors are still there; so are the first two when a walk begins.
  const auto there = [&](size_t part, size_t k) {
    const auto& steps = wanted[part];
    if (k < 2) return true;
    for (size_t back = 1; back <= 3 && back <= k; ++back)
      if (walk[steps[k]] == walk[steps[k - back]]) return true;
    return false;
  };
  std::vector<double> done(walk.size(), 0);
  double link_free = 0, now = 0;
  size_t next[2] = {0, 0};
  for (size_t s = 0; s < walk.size(); ++s) {
    double start = now;
    for (const size_t part : kBothParts) {
      const size_t k = next[part];
      if (k >= wanted[part].size() || wanted[part][k] != s) continue;
      ++next[part];
      if (there(part, k)) continue;
      // Its place is free once the visitor two before is done.
      const double free = done[wanted[part][k - 2]];
      const double bytes = static_cast<double>(problem.blocks[walk[s]].weights[part]);
      link_free = std::max(link_free, free) + bytes / problem.link;
      start = std::max(start, link_free);
    }
    const PlanBlock& block = problem.blocks[walk[s]];
    now = start +
          (s < count ? block.forward : block.backward + block.levels[plan.level[walk[s]]].remake);
    done[s] = now;
  }
  return now;
}

Plan smallest_plan(const PlanProblem& problem) {
  Plan plan = empty_plan(problem);
  for (auto& part : plan.visits) part.assign(problem.blocks.size(), true);
  weigh(problem, plan);
  plan.seconds = simulate(problem, plan);
  return plan;
}

std::optional<Plan> make_plan(const PlanProblem& problem) {
  const size_t count = problem.blocks.size();
  // Blocks with larger weights come first; their visits cost more link time for the same work, so
  // they are the last to go.
  size_t heavy = 0;
  while (heavy < count && problem.blocks[heavy].weights[0] > problem.blocks.back().weights[0])
    ++heavy;
  std::optional<Plan> best;
  for (const bool modulation : {false, true})
    for (size_t visitors = 0; visitors <= count; ++visitors) {
      Plan plan = empty_plan(problem);
      plan.visits[1].assign(count, modulation);
      const size_t light = std::min(visitors, count - heavy);
      spread(plan.visits[0], heavy, count, light);
      spread(plan.visits[0], 0, heavy, visitors - light);
      weigh(problem, plan);
      if (!fits(problem, plan)) continue;
      keep_what_fits(problem, plan);
      plan.seconds = simulate(problem, plan);
      // Visitors cost pinned memory: no more of them than make it faster.
      const bool better = !best || plan.seconds < best->seconds * (1 - 1e-4);
      if (better) best = std::move(plan);
    }
  return best;
}

}  // namespace fluxlora
