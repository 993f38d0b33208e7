// SPDX-License-Identifier: Apache-2.0
#include "model/flux/weights.h"

#include <numeric>
#include <string_view>
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

/// Where in the model a linear layer is, when it is in a block.
struct Place {
  Part part;
  size_t block;  ///< double blocks first
};

std::optional<Place> place_of(const std::string& bfl, int64_t depth) {
  constexpr std::string_view kDouble = "double_blocks.", kSingle = "single_blocks.";
  const bool single = bfl.starts_with(kSingle);
  if (!single && !bfl.starts_with(kDouble)) return {};
  const auto n = std::stoul(bfl.substr(kDouble.size()));
  const bool modulation = bfl.ends_with("mod.lin") || bfl.ends_with("modulation.lin");
  return Place{modulation ? Part::modulation : Part::body,
               n + (single ? static_cast<size_t>(depth) : 0)};
}

/// Takes all parameters: matrices from arena(their place), biases and norms from arena({}).
template <typename ArenaOf>
void describe(Weights& weights, const Config& config, DType act, WeightFormat format,
              ArenaOf&& arena) {
  weights.double_blocks.resize(static_cast<size_t>(config.depth));
  weights.single_blocks.resize(static_cast<size_t>(config.depth_single));
  std::unordered_map<std::string, LinearName> sizes;
  for (LinearName& name : linear_names(config)) sizes[name.bfl] = std::move(name);
  // visit_linears passes over guidance_in when it is empty: make it known first.
  if (config.guidance_embed)
    weights.guidance_in.in_layer.weight.values = Tensor(act, {1, 1}, &weights);
  visit_linears(weights, [&](const std::string& name, AdaptedLinear& layer) {
    const LinearName& size = sizes.at(name);
    const std::optional<Place> place = place_of(name, config.depth);
    // Embedders and the last layer are half a percent of the model, and every token passes through
    // them: they are never quantised.
    const WeightFormat own = !place && is_quantised(format) ? plain_format(act) : format;
    layer.weight = arena(place).take(kOwner, own, size.out, size.in);
    layer.bias = arena({}).take(kOwner, act, {size.out});
  });
  visit_norms(weights, [&](Tensor& norm) { norm = arena({}).take(kOwner, act, {config.K}); });
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

int64_t WeightBytes::total() const {
  int64_t sum = rest;
  for (const auto& part : parts) sum = std::accumulate(part.begin(), part.end(), sum);
  return sum;
}

WeightBytes weight_bytes(const Config& config, DType act, WeightFormat format) {
  const auto blocks = static_cast<size_t>(config.depth + config.depth_single);
  Arena rest;
  std::array<std::vector<Arena>, 2> parts;
  for (auto& part : parts) part.resize(blocks);
  Weights weights;
  describe(weights, config, act, format, [&](const std::optional<Place>& place) -> Arena& {
    return place ? parts[static_cast<size_t>(place->part)][place->block] : rest;
  });
  WeightBytes bytes{rest.used(), {}};
  for (const Part p : kParts)
    for (const Arena& arena : parts[static_cast<size_t>(p)])
      bytes.parts[static_cast<size_t>(p)].push_back(arena.used());
  return bytes;
}

LoadedWeights::LoadedWeights(Device& device, const std::filesystem::path& path,
                             const Config& config, DType act, WeightFormat format,
                             const Residence& residence)
    : LoadedWeights(device, config, act, format, residence) {
  upload(device, open_source(path, config), config);
}

LoadedWeights::LoadedWeights(Device& device, const Config& config, DType act, WeightFormat format,
                             const Residence& residence) {
  reserve(device, residence, weight_bytes(config, act, format));
  std::array<std::vector<Arena>, 2> visitors;
  for (const Part p : kParts) {
    const auto& all = pieces_[static_cast<size_t>(p)];
    for (size_t n = 0; n < all.size(); ++n)
      visitors[static_cast<size_t>(p)].push_back(
          all[n] ? Arena(store(p).place(*all[n]), store(p).host(*all[n]).bytes()) : Arena());
  }
  describe(weights_, config, act, format, [&](const std::optional<Place>& place) -> Arena& {
    return place && piece(place->part, place->block)
               ? visitors[static_cast<size_t>(place->part)][place->block]
               : resident_;
  });
}

void LoadedWeights::reserve(Device& device, const Residence& residence, const WeightBytes& bytes) {
  int64_t resident = bytes.total();
  for (const Part p : kParts) {
    const auto part = static_cast<size_t>(p);
    std::vector<int64_t> visitors;
    for (size_t n = 0; n < bytes.parts[part].size(); ++n) {
      pieces_[part].emplace_back();
      if (!residence.visit(p, n)) continue;
      pieces_[part].back() = visitors.size();
      visitors.push_back(bytes.parts[part][n]);
      resident -= bytes.parts[part][n];
    }
    if (!visitors.empty()) stores_[part] = BlockStore(device, visitors, static_cast<int>(2 * part));
  }
  resident_ = Arena(device, resident);
}

void LoadedWeights::upload(Device& device, const TensorSource& source, const Config& config) {
  // A visitor's memory on the host is laid out like its place on the device.
  std::array<std::vector<std::optional<Arena>>, 2> images;
  for (const Part p : kParts)
    for (const auto& number : pieces_[static_cast<size_t>(p)]) {
      auto& image = images[static_cast<size_t>(p)].emplace_back();
      if (number) image.emplace(store(p).host(*number).data(), store(p).host(*number).bytes());
    }
  visit_linears(weights_, [&](const std::string& bfl, AdaptedLinear& layer) {
    const std::optional<Place> place = place_of(bfl, config.depth);
    std::optional<Arena>* image =
        place ? &images[static_cast<size_t>(place->part)][place->block] : nullptr;
    const Weight& w = layer.weight;
    const bool visits = image && *image;
    const Weight home = visits ? (*image)->take(kOwner, w.format, w.out(), w.in()) : Weight();
    if (visits && !is_quantised(w.format)) {
      source.read(home, bfl + ".weight");
    } else {
      // Whether it stays or visits, one quantiser makes it: plans must not change a bit.
      source.load(device, w, bfl + ".weight");
      if (visits)
        for_storage(w.format, w.out(), w.in(), [&](Tensor Weight::* field, auto...) {
          device.download((home.*field).data(), w.*field);
        });
    }
    source.load(device, layer.bias, bfl + ".bias");
  });
  const std::vector<NormName> norms = norm_names(config);
  size_t n = 0;
  visit_norms(weights_,
              [&](Tensor& norm) { source.load(device, norm, norms[n++].bfl + ".scale"); });
}

void LoadedWeights::lease(Part part, size_t n) {
  if (const auto number = piece(part, n)) store(part).lease(*number);
}

void LoadedWeights::release(Part part, size_t n, Walk walk) {
  if (const auto number = piece(part, n)) store(part).release(*number, walk);
}

void LoadedWeights::visit_resident(
    const std::function<void(const std::string&, AdaptedLinear&)>& f) {
  constexpr size_t kNone = static_cast<size_t>(-1);
  size_t here = kNone;
  const auto go_to = [&](size_t block) {
    if (block == here) return;
    for (const Part part : kParts) {
      if (here != kNone) release(part, here, {});
      if (block != kNone) lease(part, block);
    }
    here = block;
  };
  const auto depth = static_cast<int64_t>(weights_.double_blocks.size());
  visit_linears(weights_, [&](const std::string& bfl, AdaptedLinear& layer) {
    if (const auto place = place_of(bfl, depth)) go_to(place->block);
    f(bfl, layer);
  });
  go_to(kNone);
}

int64_t LoadedWeights::device_bytes() const {
  return resident_.used() + stores_[0].device_bytes() + stores_[1].device_bytes();
}

int64_t LoadedWeights::host_bytes() const {
  return stores_[0].host_bytes() + stores_[1].host_bytes();
}

}  // namespace fluxlora::flux
