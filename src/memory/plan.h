// SPDX-License-Identifier: Apache-2.0
// The planner: which blocks keep how much for their backward, and whose weights visit the device.
// A pure function of numbers, so that it is tried on a laptop for any card.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace fluxlora {

/// A block as the planner sees it. Levels are numbered from the one that keeps the least; times are
/// seconds.
struct PlanBlock {
  struct Level {
    int64_t kept = 0;                 ///< bytes that live until the backward
    std::array<int64_t, 2> shared{};  ///< bytes of the two arenas that all blocks use in turn
    double remake = 0;                ///< time to make again what was not kept
  };
  std::vector<Level> levels;
  double forward = 0, backward = 0;
  std::array<int64_t, 2> weights{};  ///< bytes of the parts that stay or visit (flux::Part)
};

struct PlanProblem {
  std::vector<PlanBlock> blocks;
  int64_t fixed = 0;        ///< bytes of the device that every plan takes
  int64_t budget = 0;       ///< bytes of the device; 0: no limit
  int64_t host_budget = 0;  ///< bytes of pinned host memory; 0: no limit
  double link = 25e9;       ///< bytes a second from the host to the device
  /// Whether the backward reads the part too.
  std::array<bool, 2> backward_reads{true, false};
};

struct Plan {
  std::vector<size_t> level;                 ///< by block
  std::array<std::vector<bool>, 2> visits;   ///< by part, by block
  int64_t device_bytes = 0, host_bytes = 0;  ///< with the fixed ones
  double seconds = 0;                        ///< of the blocks, forward and backward
};

/// The fastest plan within the budgets; among equally fast ones that with the fewest visitors.
/// Nothing when even the smallest does not fit.
std::optional<Plan> make_plan(const PlanProblem& problem);

/// What the smallest plan takes: every block at its lowest level, all weights visiting.
Plan smallest_plan(const PlanProblem& problem);

/// The time of forward and backward when these parts visit, each fetched while the block two
/// visitors before is done: a simulation of both lanes.
double simulate(const PlanProblem& problem, const Plan& plan);

}  // namespace fluxlora
