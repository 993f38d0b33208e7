// SPDX-License-Identifier: Apache-2.0
// Adapters on every linear layer of CLIP, for tests.
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "model/clip/text_model.h"

namespace fluxlora {

/// One matrix with its gradient, on the host.
struct TrainedMatrix {
  HostTensor value, gradient;

  TrainedMatrix(DType dtype, int64_t rows, int64_t columns)
      : value(dtype, {rows, columns}), gradient(dtype, {rows, columns}) {
    zero();
  }
  void zero() { std::memset(gradient.view.data(), 0, static_cast<size_t>(gradient.view.bytes())); }
};

/// Which rows of a layer get an adapter, of which rank.
struct AdapterRows {
  int64_t first, count, rank;
};

/// The matrices by name: "LAYER.A" (all ranks, in), "LAYER.B0" (rows, rank), "LAYER.B1" ...
using ClipAdapters = std::map<std::string, TrainedMatrix>;

/// Attaches adapters of scale `scale` to every layer; `rows_of` says which. Views point into the
/// result.
inline ClipAdapters attach_adapters(
    ClipText& clip, DType dtype, double scale,
    const std::function<std::vector<AdapterRows>(const std::string&, const AdaptedLinear&)>&
        rows_of) {
  ClipAdapters matrices;
  const auto make = [&](const std::string& name, int64_t rows, int64_t columns) -> TrainedMatrix& {
    return matrices.emplace(name, TrainedMatrix(dtype, rows, columns)).first->second;
  };
  clip.visit_linears([&](const std::string& name, AdaptedLinear& linear) {
    int64_t ranks = 0;
    for (const AdapterRows& part : rows_of(name, linear)) {
      const TrainedMatrix& b =
          make(name + ".B" + std::to_string(linear.adapters.size()), part.count, part.rank);
      linear.adapters.push_back(
          {part.first, part.count, ranks, part.rank, scale, b.value.view, b.gradient.view, {}});
      ranks += part.rank;
    }
    const TrainedMatrix& a = make(name + ".A", ranks, linear.in());
    linear.A = a.value.view;
    linear.dA = a.gradient.view;
  });
  return matrices;
}

/// One adapter of this rank over all rows.
inline std::vector<AdapterRows> whole_layer(const AdaptedLinear& linear, int64_t rank) {
  return {{0, linear.out(), rank}};
}

}  // namespace fluxlora
