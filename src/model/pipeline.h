// SPDX-License-Identifier: Apache-2.0
// A model folder in diffusers' layout (flux-facts 9): where its parts lie.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace fluxlora {

struct ModelFolder {
  std::filesystem::path root;

  std::filesystem::path transformer() const { return root / "transformer"; }
  std::filesystem::path vae() const { return root / "vae"; }
  std::filesystem::path clip() const { return root / "text_encoder"; }
  std::filesystem::path t5() const { return root / "text_encoder_2"; }
  std::filesystem::path clip_tokenizer() const { return root / "tokenizer"; }
  std::filesystem::path t5_tokenizer() const { return root / "tokenizer_2"; }
  std::filesystem::path scheduler() const { return root / "scheduler"; }
};

/// "tiny" is the built-in model, else a folder. Checks that every part that training needs is
/// there; throws Error (bad_input) naming the first file that is missing.
ModelFolder open_model_folder(const std::string& path);

/// Whether this is the built-in model.
bool is_builtin_model(const std::string& path);

/// SHA-256 (hex) over the weights and configuration of the given parts: the content that a cache
/// entry or a run's identity depends on, free of paths.
std::string content_hash(const std::vector<std::filesystem::path>& parts);

/// How to sample: scheduler/scheduler_config.json (flux-facts 6.5).
struct SchedulerConfig {
  bool use_dynamic_shifting = true;
  double shift = 3.0;
  double base_shift = 0.5, max_shift = 1.15;
  int64_t base_tokens = 256, max_tokens = 4096;
};
SchedulerConfig read_scheduler_config(const std::filesystem::path& folder);

}  // namespace fluxlora
