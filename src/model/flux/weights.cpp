// SPDX-License-Identifier: Apache-2.0
#include "model/flux/weights.h"

#include <unordered_map>

#include "model/flux/names.h"

namespace fluxlora::flux {
namespace {

constexpr const char* kOwner = "transformer weights";

/// Calls f(Tensor&) for the norm vectors, in norm_names' order.
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

/// The network's file, with our names.
TensorSource open_source(const std::filesystem::path& path, const Config& config) {
  TensorSource source(path, Network::transformer);
  if (has_diffusers_names(source)) source.set_names(diffusers_table(config));
  return source;
}

}  // namespace

void check_weights(const std::filesystem::path& path, const Config& config) {
  const TensorSource source = open_source(path, config);
  for (const LinearName& name : linear_names(config)) {
    source.check(name.bfl + ".weight", {name.out, name.in});
    source.check(name.bfl + ".bias", {name.out});
  }
  for (const NormName& norm : norm_names(config)) source.check(norm.bfl + ".scale", {config.K});
}

LoadedWeights::LoadedWeights(Device& device, const std::filesystem::path& path,
                             const Config& config, DType act, WeightFormat format) {
  const TensorSource source = open_source(path, config);
  weights_.double_blocks.resize(static_cast<size_t>(config.depth));
  weights_.single_blocks.resize(static_cast<size_t>(config.depth_single));
  Arena measure;
  describe(measure, config, act, format);
  arena_ = Arena(device, measure.used());
  describe(arena_, config, act, format);
  upload(device, source, config);
}

void LoadedWeights::describe(Arena& arena, const Config& config, DType act, WeightFormat format) {
  const DType weights = element_type(format);
  std::unordered_map<std::string, LinearName> sizes;
  for (LinearName& name : linear_names(config)) sizes[name.bfl] = std::move(name);
  // visit_linears passes over guidance_in when it is empty: make it known first.
  if (config.guidance_embed)
    weights_.guidance_in.in_layer.weight.values = Tensor(weights, {1, 1}, &weights_);
  visit_linears(weights_, [&](const std::string& name, AdaptedLinear& layer) {
    const LinearName& size = sizes.at(name);
    layer.weight = {format, arena.take(kOwner, weights, {size.out, size.in})};
    if (format == WeightFormat::fp8)
      layer.weight.scales = arena.take(kOwner, DType::f32, {size.out});
    layer.bias = arena.take(kOwner, act, {size.out});
  });
  visit_norms(weights_, [&](Tensor& norm) { norm = arena.take(kOwner, act, {config.K}); });
}

void LoadedWeights::upload(Device& device, const TensorSource& source, const Config& config) {
  visit_linears(weights_, [&](const std::string& bfl, AdaptedLinear& layer) {
    source.load(device, layer.weight, bfl + ".weight");
    source.load(device, layer.bias, bfl + ".bias");
  });
  const std::vector<NormName> norms = norm_names(config);
  size_t n = 0;
  visit_norms(weights_,
              [&](Tensor& norm) { source.load(device, norm, norms[n++].bfl + ".scale"); });
}

}  // namespace fluxlora::flux
