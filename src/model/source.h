// SPDX-License-Identifier: Apache-2.0
// TensorSource: a network's tensors under our names, whatever layout its files have. Here names
// change and scaled fp8 becomes numbers; the loaders behind it know of neither.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "ops/device.h"
#include "tensor/safetensors.h"
#include "tensor/weight.h"

namespace fluxlora {

/// What files hold of a model.
enum class Network { transformer, vae, clip, t5 };
/// "FLUX.1 transformer", "VAE", "CLIP text encoder", "T5 encoder".
const char* word_for(Network network);

/// Rows of one of our tensors as files keep them: rows [row0, row0 + rows) are the rows from
/// `first` on of the tensor `stored`.
struct StoredRows {
  std::string stored;
  int64_t row0 = 0, rows = 0, first = 0;
};
/// By our names. A tensor that is not listed is stored under its own name.
using NameTable = std::map<std::string, std::vector<StoredRows>>;

class TensorSource {
 public:
  /// Opens the network at `path`: a folder of diffusers' layout (one file or shards), or one file,
  /// in which the network may have a prefix and company ("model.diffusion_model.", "vae.",
  /// "text_encoders.t5xxl.transformer."). Throws Error (bad_input) naming the file when the network
  /// is not in it, is there twice, or is quantised in a way that is not read (flux-facts 2.3).
  TensorSource(const std::filesystem::path& path, Network network);

  const std::filesystem::path& path() const { return path_; }
  /// No config.json lies beside a single file: sizes are those of its tensors.
  bool single_file() const { return single_file_; }
  /// An Error (bad_input) about this network's file.
  [[noreturn]] void fail(const std::string& what) const;

  // What is stored, by its names without the prefix.
  bool contains(const std::string& stored) const { return files_.contains(prefix_ + stored); }
  /// Size along `axis`. Throws Error (bad_input) when the tensor is missing or of another rank.
  int64_t size(const std::string& stored, size_t axis, size_t rank) const;
  /// How many of "BEFORE0", "BEFORE1" ... begin a name.
  int64_t count(const std::string& before) const;
  /// Numbers in all tensors of the network.
  int64_t numbers() const;

  // What our names mean.
  void set_names(NameTable names) { table_ = std::move(names); }
  /// Throws Error (bad_input) naming file, tensor, expected and found shape unless all is there.
  /// Sizes of 1 at the end are ignored on both sides, so that a 1x1 convolution can stand for a
  /// linear layer. Reads headers alone.
  void check(const std::string& name, const std::vector<int64_t>& shape) const;
  /// A checked copy as `dtype` (f64, f32, bf16, f16), with the scales of fp8 multiplied in.
  HostTensor read(const std::string& name, const std::vector<int64_t>& shape, DType dtype) const;
  /// The same into `destination` (contiguous, device memory), whose shape is expected. Straight
  /// from the mapped file where it has the same dtype, else one tensor at a time is on the host.
  void load(Device& device, const Tensor& destination, const std::string& name) const;
  /// A frozen matrix in its format, into memory of the host. fp8 files keep their own codes and
  /// factors in an fp8 weight; everything else is quantised.
  void read(const Weight& weight, const std::string& name) const;
  /// The same into the device's memory; what is to be quantised passes through it as bf16.
  void load(Device& device, const Weight& weight, const std::string& name) const;

 private:
  std::vector<StoredRows> pieces(const std::string& name, const std::vector<int64_t>& shape) const;
  /// destination: contiguous memory for the whole tensor.
  void read_into(void* destination, DType dtype, const std::string& name,
                 const std::vector<int64_t>& shape) const;
  /// The factors of a stored weight: none, one, or one for each row.
  std::vector<double> scales(const std::string& stored, int64_t rows) const;
  /// Whether all rows of a matrix are e4m3 in the files.
  bool stores_codes(const std::string& name, const std::vector<int64_t>& shape) const;
  /// Copies their codes, and their factors to scales (out) f32; host memory.
  void copy_codes(const Tensor& values, const Tensor& scales, const std::string& name) const;
  /// Whether the files hold the tensor as `dtype` already, without factors.
  bool stores_as(DType dtype, const std::string& name, const std::vector<int64_t>& shape) const;
  void find_prefix();
  void check_quantisation() const;
  void check_format(const std::string& layer, const std::string& format) const;

  std::filesystem::path path_;
  Network network_;
  bool single_file_ = false;
  SafetensorsSet files_;
  std::string prefix_;
  NameTable table_;
};

/// The networks in a file.
std::vector<Network> networks_in(const SafetensorsSet& files);

/// Whether tensors are named as those of a LoRA.
bool is_lora(const SafetensorsSet& files);

}  // namespace fluxlora
