// SPDX-License-Identifier: Apache-2.0
// A model's files: a folder in diffusers' layout (flux-facts 9), a single file, or parts from here
// and there.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace fluxlora {

/// What the user says about where the model is. Only `path` must be given; each other one takes the
/// place of what `path` has, or adds what a single file lacks.
struct ModelPaths {
  std::string path;  ///< a folder in diffusers' layout, one .safetensors file, or "tiny"
  std::filesystem::path vae = {}, clip = {}, t5 = {};            ///< folders or files
  std::filesystem::path clip_tokenizer = {}, t5_tokenizer = {};  ///< folders
};

/// Where each part was found. The networks are folders with a config.json, or single files, whose
/// tensors tell their sizes (model/source.h).
struct ModelFiles {
  std::filesystem::path transformer, vae, clip, t5;
  std::filesystem::path clip_tokenizer, t5_tokenizer;
  std::filesystem::path scheduler;  ///< a folder; empty with a single file

  /// All of them that are given, for content_hash().
  std::vector<std::filesystem::path> parts() const;
};

/// Finds every part that training and sampling need; "tiny" is the built-in model. A single file
/// may hold all networks or the transformer alone. Throws Error (bad_input) naming the first part
/// that is missing and how to give it.
ModelFiles open_model(const ModelPaths& paths);

/// The transformer alone, for what needs no other part. Throws Error (bad_input) when it is not
/// there.
ModelFiles open_transformer(const ModelPaths& paths);

/// Whether this is the built-in model.
bool is_builtin_model(const std::string& path);

/// SHA-256 (hex) over the weights and configuration of the given parts: the content that a cache
/// entry or a run's identity depends on, free of paths. Large files are hashed on all threads.
std::string content_hash(const std::vector<std::filesystem::path>& parts);

/// How to sample (flux-facts 6.5).
struct SchedulerConfig {
  bool use_dynamic_shifting = true;
  double shift = 3.0;
  double base_shift = 0.5, max_shift = 1.15;
  int64_t base_tokens = 256, max_tokens = 4096;
};
/// Reads scheduler_config.json of this folder.
SchedulerConfig read_scheduler_config(const std::filesystem::path& folder);
/// The model's; with a single file, what the transformer's kind asks for: a shift by the picture's
/// size with guidance (dev), none without (schnell).
SchedulerConfig read_scheduler_config(const ModelFiles& model);

}  // namespace fluxlora
