// SPDX-License-Identifier: Apache-2.0
#include "tensor/compare.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/error.h"

namespace fluxlora {
namespace {

double value(const Tensor& t, int64_t offset) {
  return t.dtype() == DType::f64 ? t.as<double>()[offset] : t.as<float>()[offset];
}

void for_each_pair(const Tensor& a, const Tensor& b,
                   const std::function<void(double, double)>& use) {
  CHECK(a.same_shape(b), "comparison of " + a.describe() + " and " + b.describe());
  const Tensor* tensors[2] = {&a, &b};
  int64_t index[Tensor::kMaxRank] = {};
  for (int64_t n = a.size(); n > 0; --n) {
    double pair[2];
    for (int k = 0; k < 2; ++k) {
      int64_t offset = 0;
      for (int i = 0; i < a.rank(); ++i) offset += index[i] * tensors[k]->stride(i);
      pair[k] = value(*tensors[k], offset);
    }
    use(pair[0], pair[1]);
    for (int i = a.rank() - 1; i >= 0 && ++index[i] == a.dim(i); --i) index[i] = 0;
  }
}

}  // namespace

double relative_error(const Tensor& a, const Tensor& b) {
  double difference = 0, norm = 0;
  for_each_pair(a, b, [&](double x, double y) {
    difference += (x - y) * (x - y);
    norm += y * y;
  });
  if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

double cosine(const Tensor& a, const Tensor& b) {
  double ab = 0, aa = 0, bb = 0;
  for_each_pair(a, b, [&](double x, double y) {
    ab += x * y;
    aa += x * x;
    bb += y * y;
  });
  return ab / std::sqrt(aa * bb);
}

double max_difference(const Tensor& a, const Tensor& b) {
  double worst = 0;
  for_each_pair(a, b, [&](double x, double y) { worst = std::max(worst, std::fabs(x - y)); });
  return worst;
}

}  // namespace fluxlora
