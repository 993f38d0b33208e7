// SPDX-License-Identifier: Apache-2.0
// What the user decides about the adapter.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace fluxlora::lora {

struct Options {
  int64_t rank = 16;
  double alpha = 16;
  /// One of the named sets "default", "kohya", "ai-toolkit", "diffusers", or patterns over module
  /// names, in which `*` stands for anything: "single_blocks.*.linear2", "*.attn.to_q".
  std::vector<std::string> targets{"default"};
  /// A LoRA file of any layout to go on from, with its layers, ranks and alphas; empty: a fresh
  /// one.
  std::filesystem::path continue_from = {};
  std::string init =
      "kaiming";  ///< of A: "kaiming" U(-1/sqrt(in), 1/sqrt(in)), or "gaussian" N(0, 1/rank²)
};

}  // namespace fluxlora::lora
