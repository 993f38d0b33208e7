// SPDX-License-Identifier: Apache-2.0
#include "model/flux/weights.h"

#include <cstring>
#include <unordered_map>

#include "base/error.h"
#include "model/flux/names.h"
#include "model/load.h"

namespace fluxlora::flux {
namespace {

constexpr const char* kOwner = "transformer weights";

/// Calls f(BFL name, Tensor&) for the norm vectors, in norm_names' order.
template <typename F>
void visit_norms(Weights& w, F&& f) {
  for (DoubleBlock& block : w.double_blocks)
    for (size_t s : {1u, 0u}) {
      f(block.stream[s].norm.query_norm);
      f(block.stream[s].norm.key_norm);
    }
  for (SingleBlock& block : w.single_blocks) {
    f(block.norm.query_norm);
    f(block.norm.key_norm);
  }
}

/// Copies rows of `source` (rows, in) to row `row0` of `destination` (out, in), both on the host.
void put_rows(const Tensor& destination, int64_t row0, const Tensor& source, int64_t first,
              int64_t rows) {
  const int64_t row_bytes = destination.dim(-1) * dtype_size(destination.dtype());
  std::memcpy(static_cast<char*>(destination.data()) + row0 * row_bytes,
              static_cast<const char*>(source.data()) + first * row_bytes,
              static_cast<size_t>(rows * row_bytes));
}

/// One fused tensor, weight or bias, from diffusers' parts.
HostTensor read_fused(const SafetensorsSet& files, const LinearName& name, const char* suffix,
                      int64_t in, DType dtype) {
  HostTensor fused(dtype, {name.out, in});
  for (const DiffusersPart& part : name.parts) {
    const HostTensor rows = read_checked(
        files, part.module + suffix,
        in == 1 ? std::vector<int64_t>{part.rows} : std::vector<int64_t>{part.rows, in}, dtype);
    const Tensor flat = rows.view.reshaped({part.rows, in});
    if (name.swapped_halves) {
      put_rows(fused.view, 0, flat, part.rows / 2, part.rows / 2);
      put_rows(fused.view, part.rows / 2, flat, 0, part.rows / 2);
    } else {
      put_rows(fused.view, part.row0, flat, 0, part.rows);
    }
  }
  return fused;
}

}  // namespace

void check_weights(const std::filesystem::path& folder, const Config& config) {
  const SafetensorsSet files(folder, "diffusion_pytorch_model");
  for (const LinearName& name : linear_names(config))
    for (const DiffusersPart& part : name.parts) {
      check_tensor(files, part.module + ".weight", {part.rows, name.in});
      check_tensor(files, part.module + ".bias", {part.rows});
    }
  for (const NormName& norm : norm_names(config))
    check_tensor(files, norm.diffusers + ".weight", {config.K});
}

LoadedWeights::LoadedWeights(Device& device, const std::filesystem::path& folder,
                             const Config& config, DType dtype) {
  const SafetensorsSet files(folder, "diffusion_pytorch_model");
  weights_.double_blocks.resize(static_cast<size_t>(config.depth));
  weights_.single_blocks.resize(static_cast<size_t>(config.depth_single));
  Arena measure;
  describe(measure, config, dtype);
  arena_ = Arena(device, measure.used());
  describe(arena_, config, dtype);
  upload(device, files, config, dtype);
}

void LoadedWeights::describe(Arena& arena, const Config& config, DType dtype) {
  std::unordered_map<std::string, LinearName> sizes;
  for (LinearName& name : linear_names(config)) sizes[name.bfl] = std::move(name);
  // visit_linears passes over guidance_in when it is empty: make it known first.
  if (config.guidance_embed)
    weights_.guidance_in.in_layer.weight.values = Tensor(dtype, {1, 1}, &weights_);
  visit_linears(weights_, [&](const std::string& name, AdaptedLinear& layer) {
    const LinearName& size = sizes.at(name);
    layer.weight.format = dtype == DType::f64 ? WeightFormat::f64 : WeightFormat::f32;
    layer.weight.values = arena.take(kOwner, dtype, {size.out, size.in});
    layer.bias = arena.take(kOwner, dtype, {size.out});
  });
  visit_norms(weights_, [&](Tensor& norm) { norm = arena.take(kOwner, dtype, {config.K}); });
}

void LoadedWeights::upload(Device& device, const SafetensorsSet& files, const Config& config,
                           DType dtype) {
  const std::vector<LinearName> names = linear_names(config);
  size_t i = 0;
  visit_linears(weights_, [&](const std::string& bfl, AdaptedLinear& layer) {
    const LinearName& name = names[i++];
    CHECK(name.bfl == bfl, "linear_names and visit_linears differ at " + bfl);
    device.upload(layer.weight.values,
                  read_fused(files, name, ".weight", name.in, dtype).view.data());
    device.upload(layer.bias, read_fused(files, name, ".bias", 1, dtype).view.data());
  });
  const std::vector<NormName> norms = norm_names(config);
  size_t n = 0;
  visit_norms(weights_, [&](Tensor& norm) {
    load_tensor(device, norm, files, norms[n++].diffusers + ".weight");
  });
}

}  // namespace fluxlora::flux
