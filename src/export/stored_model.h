// SPDX-License-Identifier: Apache-2.0
// Inside this room only: how a transformer's files keep its tensors, and reading one at a time.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "model/flux/config.h"
#include "model/source.h"

namespace fluxlora::exporting {

class StoredModel {
 public:
  /// A transformer's folder or a single file.
  explicit StoredModel(const std::filesystem::path& path);

  const flux::Config& config() const { return config_; }
  /// A checked copy under our name, f32.
  HostTensor read(const std::string& name, const std::vector<int64_t>& shape) const {
    return source_.read(name, shape, DType::f32);
  }
  /// The type in which the file keeps it.
  DType dtype(const std::string& name) const;
  /// The factor of an e4m3 matrix: 1 without a scale; nothing for rows with scales of their own
  /// and for other types.
  std::optional<float> factor(const std::string& name) const;
  /// Whether a matrix has a scale in the file.
  bool is_scaled(const std::string& name) const;
  /// Gives the memory of the mapped tensor back.
  void forget(const std::string& name) const;

  /// What stands before our names in a file that has them; empty for others.
  const std::string& prefix() const { return prefix_; }
  /// Names in the file that belong to other networks.
  std::vector<std::string> others() const;
  const SafetensorsFile::Entry& entry(const std::string& stored) const {
    return files_.entry(stored);
  }

 private:
  /// The file's names of the tensors that hold `name`.
  std::vector<std::string> stored(const std::string& name) const;
  std::vector<float> scales(const std::string& stored_weight) const;

  flux::Config config_;
  TensorSource source_;
  SafetensorsSet files_;
  NameTable table_;
  std::string prefix_;
};

}  // namespace fluxlora::exporting
