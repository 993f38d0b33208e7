// SPDX-License-Identifier: Apache-2.0
#include "model/pipeline.h"

#include <algorithm>
#include <map>

#include "base/assets.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "model/json_file.h"

namespace fluxlora {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBuiltinName = "tiny";
constexpr const char* kBuiltinRoot = "builtin:tiny-flux";

Error missing(const fs::path& path) {
  return bad_input(path.string(), "does not exist, and the model needs it",
                   "fetch the model's folder again, in the layout of diffusers");
}

void need(const fs::path& path) {
  if (!file_exists(path)) throw missing(path);
}

void need_one_of(const fs::path& first, const fs::path& second) {
  if (!file_exists(first) && !file_exists(second)) throw missing(first);
}

void need_weights(const fs::path& folder, const std::string& stem) {
  need(folder / "config.json");
  need_one_of(folder / (stem + ".safetensors"), folder / (stem + ".safetensors.index.json"));
}

/// What decides the numbers that a part gives; notes and pictures beside it do not.
bool is_content(const fs::path& file) {
  const std::string ending = file.extension().string();
  return ending == ".json" || ending == ".safetensors" || ending == ".model" || ending == ".txt";
}

/// The files of a part by their names in it.
std::map<std::string, fs::path> content_files(const fs::path& part) {
  std::map<std::string, fs::path> files;
  if (is_builtin(part)) {
    const std::string prefix = part.string().substr(std::string_view("builtin:").size()) + "/";
    for (const std::string& name : asset_names(prefix))
      if (is_content(name)) files[name.substr(prefix.size())] = "builtin:" + name;
    return files;
  }
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(part, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with('.') && entry.is_regular_file() && is_content(entry.path()))
      files[name] = entry.path();
  }
  if (error) throw missing(part);
  return files;
}

}  // namespace

bool is_builtin_model(const std::string& path) {
  return path == kBuiltinName;
}

ModelFolder open_model_folder(const std::string& path) {
  if (path.empty())
    throw bad_input("model.path", "is not given",
                    "set it to a model folder in the layout of diffusers, or to \"tiny\"");
  const ModelFolder folder{is_builtin_model(path) ? fs::path(kBuiltinRoot) : fs::path(path)};
  if (file_exists(folder.root))
    throw bad_input(path, "is a file, and this version reads model folders only",
                    "give a folder in the layout of diffusers (with model_index.json)");
  if (!folder_exists(folder.root))
    throw bad_input(path, "does not exist",
                    "give a model folder in the layout of diffusers, or \"tiny\" for the built-in "
                    "model");
  need_weights(folder.transformer(), "diffusion_pytorch_model");
  need_weights(folder.vae(), "diffusion_pytorch_model");
  need_weights(folder.clip(), "model");
  need_weights(folder.t5(), "model");
  need_one_of(folder.clip_tokenizer() / "vocab.json", folder.clip_tokenizer() / "tokenizer.json");
  need(folder.t5_tokenizer() / "spiece.model");
  need(folder.scheduler() / "scheduler_config.json");
  return folder;
}

std::string content_hash(const std::vector<fs::path>& parts) {
  Sha256 hash;
  for (const fs::path& part : parts) {
    hash.update("part\n");
    for (const auto& [name, path] : content_files(part))
      hash.update(name + " " + sha256_of_file(path) + "\n");
  }
  return hash.hex();
}

SchedulerConfig read_scheduler_config(const fs::path& folder) {
  const JsonFile json(folder / "scheduler_config.json");
  SchedulerConfig config;
  config.use_dynamic_shifting = json.boolean("use_dynamic_shifting", false);
  config.shift = json.number("shift", 1.0);
  config.base_shift = json.number("base_shift", config.base_shift);
  config.max_shift = json.number("max_shift", config.max_shift);
  config.base_tokens = json.integer("base_image_seq_len", config.base_tokens);
  config.max_tokens = json.integer("max_image_seq_len", config.max_tokens);
  if (!(config.shift > 0)) json.fail("shift", "should be above 0");
  if (config.base_tokens == config.max_tokens)
    json.fail("max_image_seq_len", "should differ from base_image_seq_len");
  return config;
}

}  // namespace fluxlora
