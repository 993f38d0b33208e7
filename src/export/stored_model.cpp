// SPDX-License-Identifier: Apache-2.0
#include "export/stored_model.h"

#include <algorithm>
#include <set>

#include "base/file.h"
#include "base/pages.h"
#include "model/flux/names.h"

namespace fluxlora::exporting {

namespace fs = std::filesystem;

namespace {

constexpr const char* kAnchor = "single_blocks.0.linear1.weight";

SafetensorsSet open_files(const fs::path& path) {
  return file_exists(path) ? SafetensorsSet(path) : SafetensorsSet(path, "diffusion_pytorch_model");
}

}  // namespace

StoredModel::StoredModel(const fs::path& path)
    : config_(flux::read_config(path)),
      source_(path, Network::transformer),
      files_(open_files(path)) {
  if (flux::has_diffusers_names(source_)) table_ = flux::diffusers_table(config_);
  source_.set_names(table_);
  const std::string anchor = table_.empty() ? kAnchor : table_.at(kAnchor).front().stored;
  for (const std::string& name : files_.names())
    if (name.ends_with(anchor)) prefix_ = name.substr(0, name.size() - anchor.size());
}

std::vector<std::string> StoredModel::stored(const std::string& name) const {
  std::vector<std::string> names;
  const auto found = table_.find(name);
  if (found == table_.end()) return {prefix_ + name};
  for (const StoredRows& piece : found->second) names.push_back(prefix_ + piece.stored);
  return names;
}

DType StoredModel::dtype(const std::string& name) const {
  return files_.entry(stored(name).front()).dtype;
}

std::vector<float> StoredModel::scales(const std::string& stored_weight) const {
  const std::string layer = stored_weight.substr(0, stored_weight.rfind('.'));
  for (const char* ending : {".scale_weight", ".weight_scale"}) {
    if (!files_.contains(layer + ending)) continue;
    const HostTensor scale = files_.read(layer + ending, DType::f32);
    const auto* first = scale.view.as<const float>();
    return {first, first + scale.view.size()};
  }
  return {};
}

std::optional<float> StoredModel::factor(const std::string& name) const {
  std::set<float> factors;
  for (const std::string& weight : stored(name)) {
    if (files_.entry(weight).dtype != DType::f8_e4m3) return std::nullopt;
    const std::vector<float> own = scales(weight);
    factors.insert(own.begin(), own.end());
    if (own.empty()) factors.insert(1.0f);
  }
  if (factors.size() != 1 || !(*factors.begin() > 0)) return std::nullopt;
  return *factors.begin();
}

bool StoredModel::is_scaled(const std::string& name) const {
  return !scales(stored(name).front()).empty();
}

void StoredModel::forget(const std::string& name) const {
  for (const std::string& one : stored(name)) {
    const auto& entry = files_.entry(one);
    forget_pages({entry.data, static_cast<size_t>(entry.bytes)});
  }
}

std::vector<std::string> StoredModel::others() const {
  std::vector<std::string> names;
  if (prefix_.empty()) return names;
  for (const std::string& name : files_.names())
    if (!name.starts_with(prefix_)) names.push_back(name);
  return names;
}

}  // namespace fluxlora::exporting
