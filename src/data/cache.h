// SPDX-License-Identifier: Apache-2.0
// The cache on disk of what the frozen encoders made: latents and text states, named by content.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "tensor/buffer.h"

namespace fluxlora {

/// Named tensors in host memory, as they stand in one cache entry.
using CacheEntry = std::map<std::string, HostTensor>;

/// The name of an entry: SHA-256 over everything that its content depends on. `vae_hash` is the
/// content hash of the VAE's weights and configuration.
std::string latent_key(const Example& example, const std::string& vae_hash, bool mirrored = false);

/// What the hash of an encoder's files is followed by when it ran in this type: nothing for f32.
std::string hash_suffix(DType dtype);

/// `kind` names what is kept ("t5", "clip"), `encoder_hash` the content of tokenizer and encoder,
/// `tokens` the padded length.
std::string text_key(const std::string& kind, const std::string& text,
                     const std::string& encoder_hash, int64_t tokens);

/// $XDG_CACHE_HOME/fluxlora, or ~/.cache/fluxlora; Error (environment) when neither is known.
std::filesystem::path default_cache_folder();

/// One safetensors file an entry, FOLDER/ab/abcdef....safetensors. Files appear whole or not at
/// all, carry a checksum and their own key, and equal keys hold equal content: so several runs may
/// share a folder, and a damaged file is made again.
class Cache {
 public:
  /// Makes the folder; Error (environment) when it cannot be made. An empty path means
  /// default_cache_folder().
  explicit Cache(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  std::filesystem::path path(const std::string& key) const;

  /// Whether there is a file for the key (sound or not).
  bool contains(const std::string& key) const;

  /// The entry, or nothing when it is absent or damaged (then a line is added to notes()).
  std::optional<CacheEntry> load(const std::string& key);

  /// Writes the entry. Throws Error (environment) when the disk is full or the folder not writable.
  void store(const std::string& key, const CacheEntry& entry);

  /// load, or else compute and store.
  CacheEntry fetch(const std::string& key, const std::function<CacheEntry()>& compute);

  int64_t hits() const { return hits_; }
  int64_t misses() const { return misses_; }
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  std::filesystem::path folder_;
  int64_t hits_ = 0, misses_ = 0;
  std::vector<std::string> notes_;
};

}  // namespace fluxlora
