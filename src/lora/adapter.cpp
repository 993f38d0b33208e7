// SPDX-License-Identifier: Apache-2.0
#include "lora/adapter.h"

#include <cmath>
#include <map>

#include "base/error.h"
#include "base/philox.h"

namespace fluxlora::lora {
namespace {

constexpr int64_t kAlign = 16;  // elements: the start of every matrix suits the widest loads

int64_t aligned(int64_t count) {
  return (count + kAlign - 1) / kAlign * kAlign;
}

Tensor matrix(const Tensor& flat, int64_t offset, int64_t rows, int64_t columns) {
  return flat.slice(0, offset, rows * columns).reshaped({rows, columns});
}

}  // namespace

AdapterSet::AdapterSet(Device& device, flux::Weights& weights, std::vector<AdapterSpec> specs,
                       DType dtype, bool trains)
    : device_(device), weights_(weights), specs_(std::move(specs)) {
  // By layer: the A of all its adapters stacked, then each B. The order of layers is the model's.
  std::map<std::string, std::vector<size_t>> by_layer;
  for (size_t i = 0; i < specs_.size(); ++i) by_layer[specs_[i].bfl].push_back(i);
  int64_t size = 0;
  flux::visit_linears(weights_, [&](const std::string& bfl, AdaptedLinear&) {
    const auto found = by_layer.find(bfl);
    if (found == by_layer.end()) return;
    for (const bool is_a : {true, false}) {
      for (const size_t i : found->second) {
        const AdapterSpec& s = specs_[i];
        segments_.push_back({i, is_a, size, is_a ? s.rank : s.rows, is_a ? s.in : s.rank});
        const int64_t count = segments_.back().rows * segments_.back().columns;
        size += is_a ? count : aligned(count);
      }
      size = aligned(size);
    }
  });
  const int64_t bytes = size * dtype_size(dtype);
  memory_ = device.allocate(bytes * (trains ? 2 : 1) + static_cast<int64_t>(sizeof(float)));
  params_ = Tensor(dtype, {size}, memory_.data());
  device.ops().fill(params_, 0);
  char* after = static_cast<char*>(memory_.data()) + bytes;
  if (trains) {
    grads_ = Tensor(dtype, {size}, after);
    device.ops().fill(grads_, 0);
    after += bytes;
  }
  multiplier_ = Tensor(DType::f32, {1}, after);
  set_multiplier(1);
  attach(by_layer);
}

void AdapterSet::attach(const std::map<std::string, std::vector<size_t>>& by_layer) {
  std::vector<const Segment*> a(specs_.size()), b(specs_.size());
  for (const Segment& segment : segments_) (segment.is_a ? a : b)[segment.spec] = &segment;
  flux::visit_linears(weights_, [&](const std::string& bfl, AdaptedLinear& layer) {
    const auto found = by_layer.find(bfl);
    if (found == by_layer.end()) return;
    CHECK(layer.adapters.empty(), "a second AdapterSet on " + bfl);
    int64_t rank0 = 0;
    for (const size_t i : found->second) {
      const AdapterSpec& s = specs_[i];
      LoraSlice slice{s.row0, s.rows, rank0, s.rank, s.scale(), {}, {}};
      slice.B = matrix(params_, b[i]->offset, s.rows, s.rank);
      if (grads_) slice.dB = matrix(grads_, b[i]->offset, s.rows, s.rank);
      layer.adapters.push_back(slice);
      rank0 += s.rank;
    }
    const int64_t first = a[found->second.front()]->offset;
    layer.A = matrix(params_, first, rank0, layer.in());
    if (grads_) layer.dA = matrix(grads_, first, rank0, layer.in());
    layer.multiplier = multiplier_;
  });
}

AdapterSet::~AdapterSet() {
  flux::visit_linears(weights_, [&](const std::string&, AdaptedLinear& layer) {
    layer.adapters.clear();
    layer.A = layer.dA = layer.multiplier = {};
  });
}

void AdapterSet::initialise(uint64_t seed, const std::string& init) {
  device_.ops().fill(params_, 0);
  for (const Segment& segment : segments_) {
    if (!segment.is_a) continue;
    Philox random(seed, Draw::init, static_cast<uint32_t>(segment.spec));
    HostTensor host(params_.dtype(), {segment.rows, segment.columns});
    const double bound = 1 / std::sqrt(static_cast<double>(segment.columns));
    const double deviation = 1 / static_cast<double>(segment.rows);
    for (int64_t i = 0; i < host.view.size(); ++i) {
      const double value =
          init == "gaussian" ? deviation * random.normal() : bound * (2 * random.uniform() - 1);
      if (host.view.dtype() == DType::f64)
        host.view.as<double>()[i] = value;
      else
        host.view.as<float>()[i] = static_cast<float>(value);
    }
    upload(segment, host.view);
  }
}

void AdapterSet::set_multiplier(float m) {
  device_.upload(multiplier_, &m);
}

HostTensor AdapterSet::download(const Segment& segment) const {
  HostTensor host(params_.dtype(), {segment.rows, segment.columns});
  device_.download(host.view.data(),
                   matrix(params_, segment.offset, segment.rows, segment.columns));
  return host;
}

void AdapterSet::upload(const Segment& segment, const Tensor& host) {
  CHECK(host.dtype() == params_.dtype() && host.size() == segment.rows * segment.columns,
        "AdapterSet::upload: " + host.describe());
  device_.upload(matrix(params_, segment.offset, segment.rows, segment.columns), host.data());
}

}  // namespace fluxlora::lora
