// SPDX-License-Identifier: Apache-2.0
#include "tensor/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "tensor/serialise.h"

namespace fluxlora {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
constexpr const char* kMetadata = "__metadata__";

Error broken(const fs::path& path, const std::string& what) {
  return bad_input(path.string(), what, "the file is damaged or no safetensors file; get it again");
}

Error broken_tensor(const fs::path& path, const std::string& name, const std::string& what) {
  return broken(path, "tensor \"" + name + "\" " + what);
}

/// Parses JSON that holds no name twice and is not nested without need: nlohmann's own parser would
/// silently keep one of two equal names.
Json parse_strictly(std::string_view text, const fs::path& path, const std::string& part) {
  std::vector<std::set<std::string>> open_objects;
  const auto watch = [&](int depth, nlohmann::json::parse_event_t event, Json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > 8) throw broken(path, part + " is nested too deeply");
    if (event == Event::object_start) open_objects.emplace_back();
    if (event == Event::object_end) open_objects.pop_back();
    if (event == Event::key) {
      const auto& name = value.get_ref<const std::string&>();
      if (!open_objects.back().insert(name).second)
        throw broken(path, part + " has the name \"" + name + "\" twice");
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const nlohmann::json::exception&) {
    throw broken(path, part + " is not valid JSON");
  }
}

std::map<std::string, std::string> parse_metadata(const Json& json, const fs::path& path) {
  if (!json.is_object()) throw broken(path, "its metadata is not an object");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) throw broken(path, "metadata \"" + key + "\" is not a string");
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

std::optional<int64_t> as_size(const Json& json) {
  // JSON numbers beyond 64 bits arrive as floating point and are refused with the negative ones.
  if (!json.is_number_unsigned() || json.get<uint64_t>() > INT64_MAX) return std::nullopt;
  return json.get<int64_t>();
}

std::vector<int64_t> parse_sizes(const Json& tensor, const char* key, const std::string& name,
                                 const fs::path& path) {
  if (!tensor.is_object() || !tensor.contains(key) || !tensor[key].is_array())
    throw broken_tensor(path, name, std::string("has no list \"") + key + "\"");
  std::vector<int64_t> sizes;
  for (const Json& item : tensor[key]) {
    const auto size = as_size(item);
    if (!size) throw broken_tensor(path, name, std::string("has a bad number in \"") + key + "\"");
    sizes.push_back(*size);
  }
  return sizes;
}

/// Bytes of the tensor by its shape, or nothing when they do not fit 63 bits.
std::optional<int64_t> byte_count(DType dtype, const std::vector<int64_t>& shape) {
  int64_t bytes = dtype_size(dtype);
  for (const int64_t size : shape)
    if (__builtin_mul_overflow(bytes, size, &bytes)) return std::nullopt;
  return bytes;
}

/// A tensor's place in the data section.
struct Placed {
  int64_t begin, end;
  std::string name;
  SafetensorsFile::Entry entry;
};

Placed parse_tensor(const std::string& name, const Json& json, std::span<const std::byte> data,
                    const fs::path& path) {
  std::vector<int64_t> shape = parse_sizes(json, "shape", name, path);
  const std::vector<int64_t> offsets = parse_sizes(json, "data_offsets", name, path);
  if (!json.contains("dtype") || !json["dtype"].is_string())
    throw broken_tensor(path, name, "has no \"dtype\"");
  const DType dtype = dtype_from_safetensors(json["dtype"].get<std::string>(), path.string());
  if (offsets.size() != 2 || offsets[0] > offsets[1])
    throw broken_tensor(path, name, "has bad data_offsets");
  if (offsets[1] > static_cast<int64_t>(data.size()))
    throw broken_tensor(path, name, "reaches beyond the end of the file");
  const auto bytes = byte_count(dtype, shape);
  if (!bytes || *bytes != offsets[1] - offsets[0])
    throw broken_tensor(path, name, "has data_offsets that do not fit its shape");
  return {
      offsets[0], offsets[1], name, {dtype, std::move(shape), data.data() + offsets[0], *bytes}};
}

/// The order and position of the data: no overlap, no hole, nothing behind it.
void check_layout(std::vector<Placed>& tensors, int64_t data_size, const fs::path& path) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const Placed& a, const Placed& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t end = 0;
  for (const Placed& tensor : tensors) {
    if (tensor.begin < end) throw broken_tensor(path, tensor.name, "overlaps another one");
    if (tensor.begin > end) throw broken_tensor(path, tensor.name, "has a hole before its data");
    end = tensor.end;
  }
  if (end != data_size)
    throw broken(path,
                 "has " + std::to_string(data_size - end) + " bytes that belong to no tensor");
}

/// Files of other formats that people have models in, by their first bytes.
void refuse_other_formats(std::string_view start, const fs::path& path) {
  const auto refuse = [&](const char* what) {
    throw bad_input(path.string(), std::string("is ") + what + ", not a .safetensors file",
                    "take the model as .safetensors in bf16, f16 or fp8");
  };
  if (start.starts_with("GGUF")) refuse("a GGUF file");
  if (start.starts_with("PK\x03\x04")) refuse("a PyTorch checkpoint (or another ZIP file)");
  if (start.starts_with("\x80\x02}")) refuse("a pickled PyTorch checkpoint");
}

/// The header's text; checks its length first.
std::string_view header_of(std::span<const std::byte> bytes, const fs::path& path) {
  if (bytes.size() < 8) throw broken(path, "is shorter than 8 bytes");
  refuse_other_formats({reinterpret_cast<const char*>(bytes.data()), 8}, path);
  uint64_t length = 0;
  for (size_t i = 0; i < 8; ++i) length |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
  if (length > kMaxHeader)
    throw broken(path, "says that its header has " + std::to_string(length) +
                           " bytes; at most 100000000 are allowed");
  if (length > bytes.size() - 8)
    throw broken(path, "ends inside its header of " + std::to_string(length) + " bytes");
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  if (!text.starts_with('{')) throw broken(path, "has a header that does not begin with {");
  return text;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const fs::path& path) : path_(path) {
  const FileView view = map_file(path);
  mapping_ = view.keep;
  const std::string_view text = header_of(view.bytes, path);
  const auto data = view.bytes.subspan(8 + text.size());
  const Json header = parse_strictly(text, path, "its header");

  std::vector<Placed> tensors;
  for (const auto& [name, json] : header.items()) {
    if (name == kMetadata)
      metadata_ = parse_metadata(json, path);
    else
      tensors.push_back(parse_tensor(name, json, data, path));
  }
  check_layout(tensors, static_cast<int64_t>(data.size()), path);
  for (Placed& tensor : tensors) {
    names_.push_back(tensor.name);
    shapes_.emplace(std::move(tensor.name), std::move(tensor.entry));
  }
}

const SafetensorsFile::Entry& SafetensorsFile::entry(const std::string& name) const {
  const auto found = shapes_.find(name);
  if (found == shapes_.end())
    throw bad_input(path_.string(), "has no tensor \"" + name + "\"",
                    "check that the file belongs to this model");
  return found->second;
}

HostTensor SafetensorsFile::read(const std::string& name, DType dtype) const {
  const Entry& source = entry(name);
  const auto rank = static_cast<int>(source.shape.size());
  if (rank > Tensor::kMaxRank)
    throw bad_input(path_.string(), "tensor \"" + name + "\" has more than four dimensions",
                    "check that the file belongs to this model");
  const int64_t one = 1;
  HostTensor result(dtype, rank ? source.shape.data() : &one, std::max(rank, 1));
  const auto bytes = static_cast<size_t>(source.bytes);
  if (dtype == source.dtype) {
    if (bytes) std::memcpy(result.view.data(), source.data, bytes);
    return result;
  }
  if (source.dtype > DType::f8_e5m2 || dtype > DType::f16)
    throw bad_input(path_.string(),
                    "tensor \"" + name + "\" is of the type " +
                        std::string(safetensors_name(source.dtype)) + ", not a usable number",
                    "check that the file belongs to this model");
  convert(dtype, result.view.data(), source.dtype, source.data, result.view.size());
  return result;
}

SafetensorsSet::SafetensorsSet(const fs::path& file) {
  files_.push_back(std::make_shared<SafetensorsFile>(file));
  for (const auto& name : files_.front()->names()) where_[name] = files_.front().get();
}

SafetensorsSet::SafetensorsSet(const fs::path& folder, const std::string& stem) {
  const fs::path single = folder / (stem + ".safetensors");
  const fs::path index = folder / (stem + ".safetensors.index.json");
  if (!file_exists(index) || file_exists(single)) {
    if (!file_exists(single))
      throw bad_input(folder.string(), "has no " + stem + ".safetensors",
                      "give a complete model folder");
    *this = SafetensorsSet(single);
    return;
  }
  const Json json = parse_strictly(map_file(index).text(), index, "it");
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
    throw broken(index, "has no \"weight_map\"");
  std::map<std::string, const SafetensorsFile*> opened;
  for (const auto& [name, value] : json["weight_map"].items()) {
    if (!value.is_string()) throw broken(index, "names no file for \"" + name + "\"");
    const auto shard_name = value.get<std::string>();
    const fs::path inside = fs::path(shard_name).lexically_normal();
    if (inside.empty() || inside.is_absolute() || *inside.begin() == "..")
      throw broken(index, "leads out of its folder: \"" + shard_name + "\"");
    const SafetensorsFile*& shard = opened[shard_name];
    if (!shard) {
      if (!file_exists(folder / inside))
        throw bad_input(folder.string(), "lacks the file " + shard_name,
                        "give a complete model folder; " + index.filename().string() +
                            " lists what belongs to it");
      files_.push_back(std::make_shared<SafetensorsFile>(folder / inside));
      shard = files_.back().get();
    }
    shard->entry(name);
    where_[name] = shard;
  }
  if (files_.empty()) throw broken(index, "lists no tensors");
}

std::vector<std::string> SafetensorsSet::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : where_) names.push_back(name);
  return names;
}

const SafetensorsFile& SafetensorsSet::file(const std::string& name) const {
  const auto found = where_.find(name);
  if (found == where_.end())
    throw bad_input(path().string(), "has no tensor \"" + name + "\"",
                    "check that the file belongs to this model");
  return *found->second;
}

namespace {

/// The place of a type in the order of the Python library (flux-facts 3.2).
int file_rank(DType dtype) {
  constexpr std::array kOrder{DType::i64,     DType::f64, DType::f32, DType::i32,
                              DType::bf16,    DType::f16, DType::i16, DType::f8_e4m3,
                              DType::f8_e5m2, DType::i8,  DType::u8,  DType::boolean};
  return static_cast<int>(std::find(kOrder.begin(), kOrder.end(), dtype) - kOrder.begin());
}

Json shape_json(const NamedTensor& tensor) {
  Json shape = Json::array();
  for (int i = 0; i < tensor.view.rank() && !tensor.scalar; ++i)
    shape.push_back(tensor.view.dim(i));
  return shape;
}

/// Length and JSON, padded with spaces to a multiple of 8.
std::string header_bytes(const fs::path& path, const std::vector<NamedTensor>& tensors,
                         const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  int64_t offset = 0;
  for (const NamedTensor& tensor : tensors) {
    CHECK(tensor.view.contiguous() && (!tensor.scalar || tensor.view.size() == 1),
          "write_safetensors: " + tensor.name + " " + tensor.view.describe());
    CHECK(tensor.name != kMetadata && !header.contains(tensor.name),
          "write_safetensors: name used twice: " + tensor.name);
    const int64_t end = offset + tensor.view.bytes();
    header[tensor.name] = {{"dtype", safetensors_name(tensor.view.dtype())},
                           {"shape", shape_json(tensor)},
                           {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    throw bad_input(path.string(), "its names or metadata are not UTF-8",
                    "write names, trigger and captions as UTF-8");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(text.size() >> (8 * i));
  return bytes + text;
}

}  // namespace

void serialise_safetensors(const fs::path& path, std::vector<NamedTensor> tensors,
                           const std::map<std::string, std::string>& metadata,
                           const ByteSink& sink) {
  std::sort(tensors.begin(), tensors.end(), [](const NamedTensor& a, const NamedTensor& b) {
    return std::pair(file_rank(a.view.dtype()), std::string_view(a.name)) <
           std::pair(file_rank(b.view.dtype()), std::string_view(b.name));
  });
  const std::string header = header_bytes(path, tensors, metadata);
  sink(std::as_bytes(std::span(header)));
  for (const NamedTensor& tensor : tensors)
    sink({tensor.view.as<const std::byte>(), static_cast<size_t>(tensor.view.bytes())});
}

void write_safetensors(const fs::path& path, std::vector<NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  write_file_atomically(path, [&](const ByteSink& sink) {
    serialise_safetensors(path, std::move(tensors), metadata, sink);
  });
}

}  // namespace fluxlora
