// SPDX-License-Identifier: Apache-2.0
#include "model/pipeline.h"

#include <algorithm>
#include <map>
#include <mutex>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/assets.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/parallel.h"
#include "model/flux/config.h"
#include "model/json_file.h"
#include "model/source.h"

namespace fluxlora {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBuiltinName = "tiny";
constexpr const char* kBuiltinRoot = "builtin:tiny-flux";

Error missing(const fs::path& path) {
  return bad_input(path.string(), "does not exist, and the model needs it",
                   "fetch the model's folder again, in the layout of diffusers");
}

/// A part that the user named himself, or that a single file lacks.
struct Part {
  Network network;
  const char* key;     ///< "vae": model.vae, --vae
  const char* stem;    ///< of the weights in a folder
  const char* folder;  ///< of diffusers' layout
};
constexpr Part kTransformer{Network::transformer, "path", "diffusion_pytorch_model", "transformer"};
constexpr Part kVae{Network::vae, "vae", "diffusion_pytorch_model", "vae"};
constexpr Part kClip{Network::clip, "clip", "model", "text_encoder"};
constexpr Part kT5{Network::t5, "t5", "model", "text_encoder_2"};

/// The network at `path`: a file that holds it, or a folder that is complete.
fs::path network_at(const fs::path& path, const Part& part) {
  if (file_exists(path)) {
    TensorSource(path, part.network);  // throws unless it is there
    return path;
  }
  if (!file_exists(path / "config.json")) throw missing(path / "config.json");
  const fs::path weights = path / (std::string(part.stem) + ".safetensors");
  if (!file_exists(weights) && !file_exists(weights.string() + ".index.json"))
    throw missing(weights);
  return path;
}

fs::path find_network(const fs::path& given, const fs::path& root, const Part& part) {
  if (given.empty()) return network_at(file_exists(root) ? root : root / part.folder, part);
  if (!file_exists(given) && !folder_exists(given))
    throw bad_input(given.string(), "does not exist",
                    fmt::format("model.{} (--{}) is a .safetensors file or a folder with one",
                                part.key, part.key));
  return network_at(given, part);
}

/// A folder with one of these files.
fs::path find_tokenizer(const fs::path& given, const fs::path& root, const std::string& folder,
                        const std::vector<std::string>& files) {
  const std::string key = folder == "tokenizer" ? "clip_tokenizer" : "t5_tokenizer";
  if (given.empty() && file_exists(root))
    throw bad_input("model." + key,
                    fmt::format("is not given, and {} holds no tokenizer", root.string()),
                    fmt::format("set it (or --{}) to a folder with {}",
                                key == "clip_tokenizer" ? "clip-tokenizer" : "t5-tokenizer",
                                fmt::join(files, " or ")));
  const fs::path path = given.empty() ? root / folder : given;
  for (const std::string& file : files)
    if (file_exists(path / file)) return path;
  throw missing(path / files.front());
}

/// What decides the numbers that a part gives; notes and pictures beside it do not.
bool is_content(const fs::path& file) {
  const std::string ending = file.extension().string();
  return ending == ".json" || ending == ".safetensors" || ending == ".model" || ending == ".txt";
}

/// The files of a part by their names in it.
std::map<std::string, fs::path> content_files(const fs::path& part) {
  std::map<std::string, fs::path> files;
  if (file_exists(part)) return {{"", part}};
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

/// SHA-256 of a file; of a large one, over the hashes of its pieces. Known files are not read
/// again: one may hold several parts.
std::string hash_of(const fs::path& path) {
  constexpr int64_t kPiece = int64_t{16} << 20;
  const FileView file = map_file(path);
  const auto bytes = static_cast<int64_t>(file.bytes.size());
  if (bytes <= kPiece) return sha256_hex(file.bytes);
  static std::map<std::string, std::string> known;
  static std::mutex mutex;
  std::error_code ignored;
  const std::string key =
      fmt::format("{} {} {}", path.string(), bytes,
                  fs::last_write_time(path, ignored).time_since_epoch().count());
  const std::lock_guard lock(mutex);
  std::string& hash = known[key];
  if (!hash.empty()) return hash;
  std::vector<std::string> pieces(static_cast<size_t>((bytes + kPiece - 1) / kPiece));
  parallel_for(static_cast<int64_t>(pieces.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      pieces[static_cast<size_t>(i)] =
          sha256_hex(file.bytes.subspan(static_cast<size_t>(i * kPiece),
                                        static_cast<size_t>(std::min(kPiece, bytes - i * kPiece))));
  });
  return hash = sha256_hex(fmt::format("{}", fmt::join(pieces, "\n")));
}

/// The folder or file that the user gives.
fs::path root_of(const ModelPaths& paths) {
  if (paths.path.empty())
    throw bad_input("model.path", "is not given",
                    "set it to a model folder in the layout of diffusers, to a single file such as "
                    "flux1-dev.safetensors, or to \"tiny\"");
  const fs::path root =
      is_builtin_model(paths.path) ? fs::path(kBuiltinRoot) : fs::path(paths.path);
  if (!file_exists(root) && !folder_exists(root))
    throw bad_input(paths.path, "does not exist",
                    "give a model folder in the layout of diffusers, a single file such as "
                    "flux1-dev.safetensors, or \"tiny\" for the built-in model");
  return root;
}

}  // namespace

bool is_builtin_model(const std::string& path) {
  return path == kBuiltinName;
}

std::vector<fs::path> ModelFiles::parts() const {
  std::vector<fs::path> all{transformer, vae, clip, t5, clip_tokenizer, t5_tokenizer};
  if (!scheduler.empty()) all.push_back(scheduler);
  return all;
}

ModelFiles open_transformer(const ModelPaths& paths) {
  ModelFiles files;
  files.transformer = find_network({}, root_of(paths), kTransformer);
  return files;
}

ModelFiles open_model(const ModelPaths& paths) {
  const fs::path root = root_of(paths);
  const bool single = file_exists(root);
  ModelFiles files;
  files.transformer = find_network({}, root, kTransformer);
  files.vae = find_network(paths.vae, root, kVae);
  files.clip = find_network(paths.clip, root, kClip);
  files.t5 = find_network(paths.t5, root, kT5);
  files.clip_tokenizer =
      find_tokenizer(paths.clip_tokenizer, root, "tokenizer", {"vocab.json", "tokenizer.json"});
  files.t5_tokenizer = find_tokenizer(paths.t5_tokenizer, root, "tokenizer_2", {"spiece.model"});
  if (single) return files;
  files.scheduler = root / "scheduler";
  if (!file_exists(files.scheduler / "scheduler_config.json"))
    throw missing(files.scheduler / "scheduler_config.json");
  return files;
}

std::string content_hash(const std::vector<fs::path>& parts) {
  Sha256 hash;
  for (const fs::path& part : parts) {
    hash.update("part\n");
    for (const auto& [name, path] : content_files(part))
      hash.update(name + " " + hash_of(path) + "\n");
  }
  return hash.hex();
}

SchedulerConfig read_scheduler_config(const ModelFiles& model) {
  if (!model.scheduler.empty()) return read_scheduler_config(model.scheduler);
  SchedulerConfig config;
  config.use_dynamic_shifting = flux::read_config(model.transformer).guidance_embed;
  config.shift = 1;
  return config;
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
