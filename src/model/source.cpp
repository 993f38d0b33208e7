// SPDX-License-Identifier: Apache-2.0
#include "model/source.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/parallel.h"

namespace fluxlora {
namespace {

namespace fs = std::filesystem;

/// Tensors by which a network is known, one for each spelling. What stands before it is a prefix.
std::vector<std::string> signatures(Network network) {
  switch (network) {
    case Network::transformer:
      return {"double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight",
              "transformer_blocks.0.attn.add_q_proj.weight",
              "single_transformer_blocks.0.proj_mlp.weight"};
    case Network::vae:
      return {"decoder.conv_in.weight"};
    case Network::clip:
      return {"embeddings.token_embedding.weight"};
    case Network::t5:
      return {"encoder.block.0.layer.0.SelfAttention.q.weight"};
  }
  return {};
}

/// Stem of the weights in a folder of diffusers' layout (flux-facts 9).
const char* stem_of(Network network) {
  return network == Network::transformer || network == Network::vae ? "diffusion_pytorch_model"
                                                                    : "model";
}

SafetensorsSet open_files(const fs::path& path, Network network) {
  return file_exists(path) ? SafetensorsSet(path) : SafetensorsSet(path, stem_of(network));
}

/// Everything that stands before a signature of the network.
std::set<std::string> prefixes_of(const SafetensorsSet& files, Network network) {
  std::set<std::string> found;
  for (const std::string& signature : signatures(network))
    for (const std::string& name : files.names()) {
      if (!name.ends_with(signature)) continue;
      const std::string prefix = name.substr(0, name.size() - signature.size());
      if (prefix.empty() || prefix.ends_with('.')) found.insert(prefix);
    }
  // Files for several families hold CLIP-G beside the CLIP-L that FLUX.1 reads.
  if (network == Network::clip && found.size() > 1 &&
      std::any_of(found.begin(), found.end(),
                  [](const std::string& p) { return p.find("clip_l.") != std::string::npos; }))
    std::erase_if(found,
                  [](const std::string& p) { return p.find("clip_l.") == std::string::npos; });
  return found;
}

std::vector<int64_t> without_trailing_ones(std::vector<int64_t> shape) {
  while (shape.size() > 1 && shape.back() == 1) shape.pop_back();
  return shape;
}

std::string describe(const std::vector<int64_t>& shape) {
  return fmt::format("({})", fmt::join(shape, ", "));
}

int64_t product(const std::vector<int64_t>& shape, size_t first) {
  int64_t count = 1;
  for (size_t i = first; i < shape.size(); ++i) count *= shape[i];
  return count;
}

const char* hint_for(Network network) {
  switch (network) {
    case Network::transformer:
      return "give a FLUX.1 model: a folder in diffusers' layout, or a single file such as "
             "flux1-dev.safetensors";
    case Network::vae:
      return "set model.vae (sample: --vae) to ae.safetensors, or to the vae folder of diffusers' "
             "layout";
    case Network::clip:
      return "set model.clip (sample: --clip) to clip_l.safetensors, or to the text_encoder folder "
             "of diffusers' layout";
    case Network::t5:
      break;
  }
  return "set model.t5 (sample: --t5) to t5xxl_fp16.safetensors or the like, or to the "
         "text_encoder_2 folder of diffusers' layout";
}

}  // namespace

const char* word_for(Network network) {
  switch (network) {
    case Network::transformer:
      return "FLUX.1 transformer";
    case Network::vae:
      return "VAE";
    case Network::clip:
      return "CLIP text encoder";
    case Network::t5:
      break;
  }
  return "T5 encoder";
}

std::vector<Network> networks_in(const SafetensorsSet& files) {
  std::vector<Network> found;
  for (const Network n : {Network::transformer, Network::vae, Network::clip, Network::t5})
    if (!prefixes_of(files, n).empty()) found.push_back(n);
  return found;
}

bool is_lora(const SafetensorsSet& files) {
  const auto names = files.names();
  return std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return name.find(".lora_") != std::string::npos || name.find("_lora.") != std::string::npos ||
           name.find(".lora.") != std::string::npos;
  });
}

TensorSource::TensorSource(const fs::path& path, Network network)
    : path_(path),
      network_(network),
      single_file_(file_exists(path)),
      files_(open_files(path, network)) {
  find_prefix();
  check_quantisation();
}

void TensorSource::fail(const std::string& what) const {
  throw bad_input(files_.path().string(), what,
                  single_file_ ? "the file is of another model or damaged: fetch it again"
                               : "the file does not fit the config.json beside it: fetch the model "
                                 "again");
}

void TensorSource::find_prefix() {
  const auto found = prefixes_of(files_, network_);
  if (found.size() == 1) {
    prefix_ = *found.begin();
    return;
  }
  if (found.size() > 1)
    throw bad_input(files_.path().string(),
                    fmt::format("holds more than one {}: under \"{}\" and \"{}\"",
                                word_for(network_), *found.begin(), *found.rbegin()),
                    "give a file with one model");
  if (!single_file_) return;  // the folder says what it is: what it lacks is named when it is read
  std::vector<std::string> others;
  for (const Network n : networks_in(files_)) others.push_back(fmt::format("a {}", word_for(n)));
  if (is_lora(files_)) others.emplace_back("a LoRA");
  throw bad_input(path_.string(),
                  others.empty() ? fmt::format("holds no {}", word_for(network_))
                                 : fmt::format("holds {} and no {}", fmt::join(others, ", "),
                                               word_for(network_)),
                  hint_for(network_));
}

int64_t TensorSource::size(const std::string& stored, size_t axis, size_t rank) const {
  if (!contains(stored)) fail(fmt::format("has no tensor \"{}\"", prefix_ + stored));
  const auto& shape = files_.entry(prefix_ + stored).shape;
  if (shape.size() != rank || shape[axis] < 1)
    fail(fmt::format("tensor \"{}\" is {} where {} dimensions are expected", prefix_ + stored,
                     describe(shape), rank));
  return shape[axis];
}

int64_t TensorSource::count(const std::string& before) const {
  const auto names = files_.names();  // in order
  for (int64_t n = 0;; ++n) {
    const std::string start = fmt::format("{}{}{}.", prefix_, before, n);
    const auto at = std::lower_bound(names.begin(), names.end(), start);
    if (at == names.end() || !at->starts_with(start)) return n;
  }
}

int64_t TensorSource::numbers() const {
  int64_t total = 0;
  for (const std::string& name : files_.names())
    if (name.starts_with(prefix_)) total += product(files_.entry(name).shape, 0);
  return total;
}

std::vector<StoredRows> TensorSource::pieces(const std::string& name,
                                             const std::vector<int64_t>& shape) const {
  const auto found = table_.find(name);
  if (found == table_.end()) return {{name, 0, shape.at(0), 0}};
  std::vector<StoredRows> list = found->second;
  if (list.size() == 1 && list[0].rows == 0) list[0].rows = shape.at(0);
  return list;
}

void TensorSource::check(const std::string& name, const std::vector<int64_t>& shape) const {
  std::map<std::string, int64_t> rows;
  for (const StoredRows& piece : pieces(name, shape)) rows[piece.stored] += piece.rows;
  for (const auto& [stored, count] : rows) {
    if (!contains(stored)) fail(fmt::format("has no tensor \"{}\"", prefix_ + stored));
    const auto& entry = files_.entry(prefix_ + stored);
    std::vector<int64_t> expected = shape;
    expected[0] = count;
    if (without_trailing_ones(entry.shape) != without_trailing_ones(expected))
      fail(fmt::format("tensor \"{}\" is {} where {} is expected", prefix_ + stored,
                       describe(entry.shape), describe(expected)));
    if (entry.dtype > DType::f8_e5m2)
      fail(fmt::format("tensor \"{}\" is of the type {}, not a usable number", prefix_ + stored,
                       safetensors_name(entry.dtype)));
  }
}

void TensorSource::read_into(void* destination, DType dtype, const std::string& name,
                             const std::vector<int64_t>& shape) const {
  check(name, shape);
  const int64_t width = product(shape, 1);
  for (const StoredRows& piece : pieces(name, shape)) {
    const auto& entry = files_.entry(prefix_ + piece.stored);
    const std::byte* source = entry.data + piece.first * width * dtype_size(entry.dtype);
    char* to = static_cast<char*>(destination) + piece.row0 * width * dtype_size(dtype);
    const std::vector<double> factors =
        scales(piece.stored, entry.shape.empty() ? 1 : entry.shape[0]);
    if (factors.size() <= 1) {
      convert(dtype, to, entry.dtype, source, piece.rows * width, factors.empty() ? 1 : factors[0]);
      continue;
    }
    parallel_for(piece.rows, 1, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r)
        convert(dtype, to + r * width * dtype_size(dtype), entry.dtype,
                source + r * width * dtype_size(entry.dtype), width,
                factors[static_cast<size_t>(piece.first + r)]);
    });
  }
}

HostTensor TensorSource::read(const std::string& name, const std::vector<int64_t>& shape,
                              DType dtype) const {
  check(name, shape);  // before memory is asked for
  HostTensor result(dtype, shape.data(), static_cast<int>(shape.size()));
  read_into(result.view.data(), dtype, name, shape);
  return result;
}

bool TensorSource::stores_as(DType dtype, const std::string& name,
                             const std::vector<int64_t>& shape) const {
  const std::vector<StoredRows> list = pieces(name, shape);
  return std::all_of(list.begin(), list.end(), [&](const StoredRows& piece) {
    const auto& entry = files_.entry(prefix_ + piece.stored);
    return entry.dtype == dtype &&
           scales(piece.stored, entry.shape.empty() ? 1 : entry.shape[0]).empty();
  });
}

void TensorSource::load(Device& device, const Tensor& destination, const std::string& name) const {
  std::vector<int64_t> shape;
  for (int i = 0; i < destination.rank(); ++i) shape.push_back(destination.dim(i));
  if (device.is_host()) {
    CHECK(destination.contiguous(), "TensorSource::load: " + destination.describe());
    read_into(destination.data(), destination.dtype(), name, shape);
    return;
  }
  check(name, shape);
  if (!stores_as(destination.dtype(), name, shape)) {
    const HostTensor host = read(name, shape, destination.dtype());
    return device.upload(destination, host.view.data());
  }
  const int64_t row_bytes = product(shape, 1) * dtype_size(destination.dtype());
  for (const StoredRows& piece : pieces(name, shape))
    device.upload(destination.slice(0, piece.row0, piece.rows),
                  files_.entry(prefix_ + piece.stored).data + piece.first * row_bytes);
}

}  // namespace fluxlora
