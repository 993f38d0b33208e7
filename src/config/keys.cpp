// SPDX-License-Identifier: Apache-2.0
#include "config/keys.h"

#include <cmath>

#include <fmt/format.h>

#include "config/key_tables.h"

namespace fluxlora::config {

std::string describe(const Limits& limits) {
  std::string text;
  if (limits.multiple > 1) text = fmt::format("a multiple of {}", limits.multiple);
  const auto add = [&](const std::string& more) { text += (text.empty() ? "" : " ") + more; };
  const bool least = std::isfinite(limits.least), most = std::isfinite(limits.most);
  if (least && limits.above_least) add(fmt::format("above {}", limits.least));
  if (least && !limits.above_least)
    add(most ? fmt::format("from {}", limits.least) : fmt::format("{} or more", limits.least));
  if (most && limits.below_most) add(fmt::format("to below {}", limits.most));
  if (most && !limits.below_most) add(fmt::format("to {:.0f}", limits.most));
  if (limits.zero_too) text += ", or 0";
  return text;
}

bool within(const Limits& limits, double value) {
  if (!std::isfinite(value)) return false;
  if (limits.zero_too && value == 0) return true;
  if (value < limits.least || (limits.above_least && value == limits.least)) return false;
  if (value > limits.most || (limits.below_most && value == limits.most)) return false;
  return limits.multiple == 1 || std::fmod(value, static_cast<double>(limits.multiple)) == 0;
}

std::span<const RunKey> run_keys() {
  static const std::vector<RunKey> keys = [] {
    std::vector<RunKey> all;
    for (const auto table :
         {model_keys, subject_keys, dataset_keys, lora_keys, train_keys, optimizer_keys,
          timestep_keys, memory_keys, validate_keys, sample_keys, output_keys})
      for (RunKey& key : table()) all.push_back(std::move(key));
    return all;
  }();
  return keys;
}

std::span<const Table> tables() {
  static const std::vector<Table> all{
      {"model", "What is taught."},
      {"subject", "What it learns."},
      {"dataset", "From which pictures."},
      {"lora", "The adapter."},
      {"train", "How it learns."},
      {"memory", "What it may take. A plan changes the time of a step, never its result."},
      {"validate",
       "Pictures kept out of training tell learning from memorising, and when to stop."},
      {"sample", "Pictures on the way, each time from the same prompts and noise."},
      {"output", "What is left."},
  };
  return all;
}

std::span<const std::string> later_names() {
  static const std::vector<std::string> names{"train.deterministic"};
  return names;
}

}  // namespace fluxlora::config
