// SPDX-License-Identifier: Apache-2.0
// A model's config.json: values by key, with errors that name the file and the key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace fluxlora {

/// Reads one JSON object. Every getter throws Error (bad_input) for a missing key (unless a default
/// is given) or a value of another type; a null counts as missing.
class JsonFile {
 public:
  explicit JsonFile(const std::filesystem::path& path);
  ~JsonFile();
  JsonFile(JsonFile&&) noexcept;

  bool has(const std::string& key) const;
  int64_t integer(const std::string& key) const;
  int64_t integer(const std::string& key, int64_t otherwise) const;
  /// An integer of at least `least`.
  int64_t integer_from(const std::string& key, int64_t least) const;
  double number(const std::string& key) const;
  double number(const std::string& key, double otherwise) const;
  bool boolean(const std::string& key, bool otherwise) const;
  std::string text(const std::string& key) const;
  std::string text(const std::string& key, const std::string& otherwise) const;
  std::vector<int64_t> integers(const std::string& key) const;
  std::vector<std::string> texts(const std::string& key) const;

  const std::filesystem::path& path() const { return path_; }
  /// An Error (bad_input) about a key of this file.
  [[noreturn]] void fail(const std::string& key, const std::string& what) const;

 private:
  struct Document;
  std::filesystem::path path_;
  std::unique_ptr<Document> document_;
};

}  // namespace fluxlora
