// SPDX-License-Identifier: Apache-2.0
// The safetensors file format: 8 bytes of header length, a JSON header, the data
// (reference: huggingface/safetensors, README "Format").
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/buffer.h"
#include "tensor/tensor.h"

namespace fluxlora {

/// An open file, mapped into memory. Every size and offset of the header is checked at opening:
/// truncated files, oversized headers, overlapping or out-of-range data, wrong shapes and duplicate
/// names are Errors (bad_input) that name the file.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// Names in the order of the data.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(const std::string& name) const { return shapes_.count(name) != 0; }

  struct Entry {
    DType dtype;
    std::vector<int64_t> shape;  ///< may be empty: a scalar
    const std::byte* data;       ///< into the mapping; alive while this object lives. Files of
                                 ///< other writers need not align it: copy, or use read()
    int64_t bytes;
  };
  /// Throws Error (bad_input) naming the file when there is no such tensor.
  const Entry& entry(const std::string& name) const;

  /// A copy as `dtype` (any floating type to f64, f32, bf16 or f16; others as they are). Rank 0
  /// becomes (1). Throws Error (bad_input) for more than four dimensions or another type of number.
  HostTensor read(const std::string& name, DType dtype) const;

 private:
  std::filesystem::path path_;
  std::shared_ptr<const void> mapping_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::string> names_;
  std::map<std::string, Entry> shapes_;
};

/// All tensors of a folder's component: STEM.safetensors, or the shards that
/// STEM.safetensors.index.json lists. `stem` is say "diffusion_pytorch_model" or "model". Throws
/// Error (bad_input) when there is neither, when a shard is missing or lacks a listed tensor, or
/// when the list leads out of the folder.
class SafetensorsSet {
 public:
  SafetensorsSet(const std::filesystem::path& folder, const std::string& stem);
  explicit SafetensorsSet(const std::filesystem::path& file);

  bool contains(const std::string& name) const { return where_.count(name) != 0; }
  const SafetensorsFile::Entry& entry(const std::string& name) const {
    return file(name).entry(name);
  }
  HostTensor read(const std::string& name, DType dtype) const {
    return file(name).read(name, dtype);
  }
  std::vector<std::string> names() const;
  /// For messages: the file that holds `name`, or the first file.
  const std::filesystem::path& path() const { return files_.front()->path(); }
  const std::vector<std::shared_ptr<const SafetensorsFile>>& files() const { return files_; }

 private:
  const SafetensorsFile& file(const std::string& name) const;

  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*> where_;
};

/// One tensor to be written: a contiguous view of host memory.
struct NamedTensor {
  std::string name;
  Tensor view;
  bool scalar = false;  ///< the one element is written with the shape [], as alpha in kohya's files
};

/// Writes a file whole or not at all (temporary file, fsync, rename). Tensors are laid out as the
/// Python library does: by dtype, then by name, header padded to 8 bytes; so equal content gives
/// equal bytes, and the same bytes as Python's when there is at most one entry of metadata: we sort
/// the metadata by key, the library writes it in the changing order of a hash map. Without metadata
/// there is no `__metadata__`. Throws Error (environment) when the disk is full or the folder not
/// writable, Error (bad_input) for names or metadata that are not UTF-8.
void write_safetensors(const std::filesystem::path& path, std::vector<NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace fluxlora
