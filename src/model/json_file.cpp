// SPDX-License-Identifier: Apache-2.0
#include "model/json_file.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace fluxlora {

struct JsonFile::Document {
  nlohmann::json root;

  /// The value, or null for a missing key.
  const nlohmann::json& at(const std::string& key) const {
    static const nlohmann::json nothing;
    const auto found = root.find(key);
    return found == root.end() ? nothing : *found;
  }
};

JsonFile::JsonFile(const std::filesystem::path& path)
    : path_(path), document_(std::make_unique<Document>()) {
  const FileView file = map_file(path);
  document_->root = nlohmann::json::parse(file.text(), nullptr, /*allow_exceptions=*/false);
  if (!document_->root.is_object())
    throw bad_input(path.string(), "is not a JSON object",
                    "the file is damaged: fetch the model's folder again");
}

JsonFile::~JsonFile() = default;
JsonFile::JsonFile(JsonFile&&) noexcept = default;

void JsonFile::fail(const std::string& key, const std::string& what) const {
  throw bad_input(path_.string(), "\"" + key + "\" " + what,
                  "the file is damaged or of another model: fetch the model's folder again");
}

bool JsonFile::has(const std::string& key) const {
  return !document_->at(key).is_null();
}

int64_t JsonFile::integer(const std::string& key) const {
  const auto& value = document_->at(key);
  if (value.is_null()) fail(key, "is missing");
  if (!value.is_number_integer()) fail(key, "should be a whole number");
  return value.get<int64_t>();
}

int64_t JsonFile::integer(const std::string& key, int64_t otherwise) const {
  return has(key) ? integer(key) : otherwise;
}

int64_t JsonFile::integer_from(const std::string& key, int64_t least) const {
  const int64_t value = integer(key);
  if (value < least) fail(key, "should be at least " + std::to_string(least));
  if (value > int64_t{1} << 31) fail(key, "is too large");
  return value;
}

double JsonFile::number(const std::string& key) const {
  const auto& value = document_->at(key);
  if (value.is_null()) fail(key, "is missing");
  if (!value.is_number()) fail(key, "should be a number");
  return value.get<double>();
}

double JsonFile::number(const std::string& key, double otherwise) const {
  return has(key) ? number(key) : otherwise;
}

bool JsonFile::boolean(const std::string& key, bool otherwise) const {
  const auto& value = document_->at(key);
  if (value.is_null()) return otherwise;
  if (!value.is_boolean()) fail(key, "should be true or false");
  return value.get<bool>();
}

std::string JsonFile::text(const std::string& key) const {
  const auto& value = document_->at(key);
  if (value.is_null()) fail(key, "is missing");
  if (!value.is_string()) fail(key, "should be a text");
  return value.get<std::string>();
}

std::string JsonFile::text(const std::string& key, const std::string& otherwise) const {
  return has(key) ? text(key) : otherwise;
}

std::vector<int64_t> JsonFile::integers(const std::string& key) const {
  const auto& value = document_->at(key);
  if (value.is_null()) fail(key, "is missing");
  std::vector<int64_t> result;
  if (!value.is_array()) fail(key, "should be a list of whole numbers");
  for (const auto& one : value) {
    if (!one.is_number_integer()) fail(key, "should be a list of whole numbers");
    result.push_back(one.get<int64_t>());
  }
  return result;
}

std::vector<std::string> JsonFile::texts(const std::string& key) const {
  const auto& value = document_->at(key);
  if (value.is_null()) fail(key, "is missing");
  std::vector<std::string> result;
  if (!value.is_array()) fail(key, "should be a list of texts");
  for (const auto& one : value) {
    if (!one.is_string()) fail(key, "should be a list of texts");
    result.push_back(one.get<std::string>());
  }
  return result;
}

}  // namespace fluxlora
