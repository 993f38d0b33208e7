// SPDX-License-Identifier: Apache-2.0
#include "data/cache.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <span>

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "tensor/safetensors.h"

namespace fluxlora {

namespace {

namespace fs = std::filesystem;

/// Changes whenever this room makes other pixels out of the same file.
constexpr const char* kPixelVersion = "pixels 1";

/// Each field with its length, so that two lists of fields never read alike.
std::string key_of(std::initializer_list<std::string> fields) {
  Sha256 hash;
  for (const std::string& field : fields)
    hash.update(fmt::format("{}:", field.size())).update(field);
  return hash.hex();
}

/// SHA-256 over names, types, shapes and bytes.
std::string checksum(const std::vector<NamedTensor>& tensors) {
  Sha256 hash;
  for (const NamedTensor& tensor : tensors) {
    const Tensor& view = tensor.view;
    hash.update(fmt::format("{}:{} {} ", tensor.name.size(), tensor.name, view.describe()));
    hash.update(std::span(view.as<std::byte>(), static_cast<size_t>(view.bytes())));
  }
  return hash.hex();
}

/// In the order of the names.
std::vector<NamedTensor> views(const CacheEntry& entry) {
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : entry) tensors.push_back({name, tensor.view, {}});
  return tensors;
}

CacheEntry read_entry(const SafetensorsFile& file) {
  CacheEntry entry;
  for (const std::string& name : file.names()) {
    const SafetensorsFile::Entry& stored = file.entry(name);
    if (stored.shape.empty() || stored.shape.size() > Tensor::kMaxRank) {
      throw bad_input(file.path().string(), "is no cache entry", "remove it");
    }
    HostTensor tensor(stored.dtype, stored.shape.data(), static_cast<int>(stored.shape.size()));
    std::memcpy(tensor.view.data(), stored.data, static_cast<size_t>(stored.bytes));
    entry.emplace(name, std::move(tensor));
  }
  return entry;
}

}  // namespace

std::string latent_key(const Example& example, const std::string& vae_hash, bool mirrored) {
  const auto& [x, y, width, height] = example.box;
  return key_of({mirrored ? "mirrored latents" : "latents", kPixelVersion, example.hash,
                 fmt::format("{} {} {} {}", x, y, width, height),
                 fmt::format("{} {}", example.size.width, example.size.height), vae_hash});
}

std::string hash_suffix(DType dtype) {
  if (dtype == DType::f32) return {};
  return fmt::format(" {}", safetensors_name(dtype));
}

std::string text_key(const std::string& kind, const std::string& text,
                     const std::string& encoder_hash, int64_t tokens) {
  return key_of({"text", kind, text, encoder_hash, fmt::format("{}", tokens)});
}

fs::path default_cache_folder() {
  // The XDG base directory specification: relative values are to be ignored.
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg && fs::path(xdg).is_absolute()) {
    return fs::path(xdg) / "fluxlora";
  }
  if (const char* home = std::getenv("HOME"); home && *home) {
    return fs::path(home) / ".cache" / "fluxlora";
  }
  throw environment_error("HOME", "is not set, so there is no place for the cache",
                          "set dataset.cache to a folder");
}

Cache::Cache(const fs::path& folder) : folder_(folder.empty() ? default_cache_folder() : folder) {
  make_folder(folder_);
}

fs::path Cache::path(const std::string& key) const {
  CHECK(key.size() == 64, "Cache: key");
  return folder_ / key.substr(0, 2) / (key + ".safetensors");
}

bool Cache::contains(const std::string& key) const {
  return file_exists(path(key));
}

std::optional<CacheEntry> Cache::load(const std::string& key) {
  const fs::path file_path = path(key);
  if (file_exists(file_path)) {
    try {
      const SafetensorsFile file(file_path);
      CacheEntry entry = read_entry(file);
      const std::map<std::string, std::string> expected{{"key", key},
                                                        {"sha256", checksum(views(entry))}};
      if (file.metadata() == expected) {
        ++hits_;
        return entry;
      }
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::internal) throw;
    }
    notes_.push_back(file_path.string() + ": is damaged and will be made again");
  }
  ++misses_;
  return std::nullopt;
}

void Cache::store(const std::string& key, const CacheEntry& entry) {
  const fs::path file_path = path(key);
  make_folder(file_path.parent_path());
  std::vector<NamedTensor> tensors = views(entry);
  const std::string sum = checksum(tensors);
  write_safetensors(file_path, std::move(tensors), {{"key", key}, {"sha256", sum}});
}

CacheEntry Cache::fetch(const std::string& key, const std::function<CacheEntry()>& compute) {
  if (std::optional<CacheEntry> entry = load(key)) return std::move(*entry);
  CacheEntry entry = compute();
  store(key, entry);
  return entry;
}

}  // namespace fluxlora
