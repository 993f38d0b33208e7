// SPDX-License-Identifier: Apache-2.0
// What the user decides about the adapter.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace fluxlora::lora {

struct Options {
  /// Or "dora": rows of the changed weight have norms of their own; "lokr": a Kronecker product.
  std::string type = "lora";
  int64_t factor = 8;  ///< of LoKr: W1 has at most so many rows and columns
  int64_t rank = 16;
  double alpha = 16;
  /// One of the named sets "default", "kohya", "ai-toolkit", "diffusers", or patterns over module
  /// names, in which `*` stands for anything and {7-12} for each of these numbers:
  /// "single_blocks.*.linear2", "transformer_blocks.{0-4}.attn.to_q".
  std::vector<std::string> targets{"default"};
  /// Patterns over the names of `targets`' layers: these get no adapter after all.
  std::vector<std::string> exclude = {};
  /// "PATTERN = RANK": another rank for some layers; the last that fits counts.
  std::vector<std::string> ranks = {};
  bool text_encoder = false;        ///< CLIP's text model gets adapters too
  bool rslora = false;              ///< the change is multiplied by alpha / sqrt(rank)
  double dropout = 0;               ///< share of x Aᵀ (or of x) that is set aside in each step
  std::string dropout_of = "rank";  ///< x Aᵀ as kohya does, or "input": x as PEFT does
  /// A LoRA file of any layout to go on from, with its layers, ranks and alphas; empty: a fresh
  /// one.
  std::filesystem::path continue_from = {};
  /// The start. Of A, B being 0: "kaiming" U(-1/sqrt(in), 1/sqrt(in)), or "gaussian" N(0, 1/rank²).
  /// Of both, subtracted again: "pissa" the weight's principal part, "lora_ga" the directions of
  /// the first gradients (train/start.h).
  std::string init = "kaiming";
  std::string ga_scale = "stable";  ///< of LoRA-GA's start: "stable" rows^(1/4) / sqrt(gamma), "gd"
  double ga_gamma = 16;
  int64_t ga_batches = 8;  ///< micro-batches that its gradient is the sum of
};

}  // namespace fluxlora::lora
