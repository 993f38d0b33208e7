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
                       DType act, bool trains, bool assistant)
    : device_(device), weights_(weights), specs_(std::move(specs)), assistant_(assistant) {
  CHECK(!(trains && assistant), "an assistant does not train");
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
  allocate(size, act, trains);
  set_multiplier(1);
  attach(by_layer);
}

void AdapterSet::allocate(int64_t size, DType act, bool trains) {
  const DType own = act == DType::f64 ? DType::f64 : DType::f32;
  const int64_t bytes = size * dtype_size(own);
  const int64_t copy = act == own ? 0 : size * dtype_size(act);
  memory_ = device_.allocate(bytes * (trains ? 2 : 1) + copy + static_cast<int64_t>(sizeof(float)));
  char* next = static_cast<char*>(memory_.data());
  const auto take = [&](DType dtype) {
    const Tensor flat(dtype, {size}, next);
    next += flat.bytes();
    device_.ops().fill(flat, 0);
    return flat;
  };
  params_ = take(own);
  if (trains) grads_ = take(own);
  active_ = copy ? take(act) : params_;
  multiplier_ = Tensor(DType::f32, {1}, next);
}

void AdapterSet::refresh() {
  if (active_.data() != params_.data()) device_.ops().cast(active_, params_);
}

void AdapterSet::attach(const std::map<std::string, std::vector<size_t>>& by_layer) {
  std::vector<const Segment*> a(specs_.size()), b(specs_.size());
  for (const Segment& segment : segments_) (segment.is_a ? a : b)[segment.spec] = &segment;
  flux::visit_linears(weights_, [&](const std::string& bfl, AdaptedLinear& layer) {
    const auto found = by_layer.find(bfl);
    if (found == by_layer.end()) return;
    LoraStack& stack = assistant_ ? layer.assistant : layer;
    CHECK(stack.adapters.empty(), "a second AdapterSet on " + bfl);
    int64_t rank0 = 0;
    for (const size_t i : found->second) {
      const AdapterSpec& s = specs_[i];
      LoraSlice slice{s.row0, s.rows, rank0, s.rank, s.scale(), {}, {}};
      slice.B = matrix(active_, b[i]->offset, s.rows, s.rank);
      if (grads_) slice.dB = matrix(grads_, b[i]->offset, s.rows, s.rank);
      stack.adapters.push_back(slice);
      rank0 += s.rank;
    }
    const int64_t first = a[found->second.front()]->offset;
    stack.A = matrix(active_, first, rank0, layer.in());
    if (grads_) stack.dA = matrix(grads_, first, rank0, layer.in());
    stack.multiplier = multiplier_;
  });
}

AdapterSet::~AdapterSet() {
  flux::visit_linears(weights_, [&](const std::string&, AdaptedLinear& layer) {
    (assistant_ ? layer.assistant : layer) = LoraStack{};
  });
}

void AdapterSet::initialise(uint64_t seed, const std::string& init) {
  device_.ops().fill(params_, 0);
  refresh();
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
  const Tensor own = matrix(params_, segment.offset, segment.rows, segment.columns);
  device_.upload(own, host.data());
  if (active_.data() != params_.data())
    device_.ops().cast(matrix(active_, segment.offset, segment.rows, segment.columns), own);
}

}  // namespace fluxlora::lora
