// SPDX-License-Identifier: Apache-2.0
#include "prepare/saliency.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "tensor/safetensors.h"

namespace fluxlora {
namespace {

constexpr const char* kWeights = "builtin:saliency/saliency.safetensors";
constexpr int kLongSide = 128, kMultiple = 32, kShortest = 64;
constexpr int64_t kGroups = 8;
constexpr double kEps = 1e-6;
/// Below this nothing is said to stand out.
constexpr float kLeastSure = 0.3F;
/// The share of what stands out that may lie outside at each end.
constexpr double kStray = 0.02;

/// What stands out, summed over the other axis.
std::vector<double> profile(const SaliencyMap& map, bool across, float threshold) {
  std::vector<double> sums(static_cast<size_t>(across ? map.width : map.height), 0.0);
  for (int y = 0; y < map.height; ++y) {
    for (int x = 0; x < map.width; ++x) {
      const float p = map.p[static_cast<size_t>(y) * map.width + x];
      if (p >= threshold) sums[static_cast<size_t>(across ? x : y)] += p;
    }
  }
  return sums;
}

/// Where the running sum of `sums` reaches `part`, in cells.
double reaches(const std::vector<double>& sums, double part) {
  double before = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    if (before + sums[i] >= part && sums[i] > 0) return double(i) + (part - before) / sums[i];
    before += sums[i];
  }
  return double(sums.size());
}

/// The running sum of `sums` up to `at`.
double sum_up_to(const std::vector<double>& sums, double at) {
  const double end = std::clamp(at, 0.0, double(sums.size()));
  const auto whole = static_cast<size_t>(end);
  const double sum = std::accumulate(sums.begin(), sums.begin() + static_cast<long>(whole), 0.0);
  return whole < sums.size() ? sum + (end - double(whole)) * sums[whole] : sum;
}

}  // namespace

SaliencyNetwork::SaliencyNetwork(Device& device) : op_(device.ops()) {
  CHECK(device.is_host(), "saliency: the CPU");
  const SafetensorsFile file(kWeights);
  for (const std::string& name : file.names()) weights_[name] = file.read(name, DType::f32);
}

Size SaliencyNetwork::glance_size(Size picture) {
  const auto side = [&](int length) {
    const double small = double(kLongSide) * length / std::max(picture.width, picture.height);
    return std::max(kShortest, kMultiple * static_cast<int>(std::lround(small / kMultiple)));
  };
  return {side(picture.width), side(picture.height)};
}

HostTensor SaliencyNetwork::conv(const Tensor& x, const std::string& name, int64_t stride) {
  const Tensor w = weight(name + ".conv.weight");
  HostTensor y(x.dtype(), {1, x.dim(1) / stride, x.dim(2) / stride, w.dim(0)});
  op_.conv2d(y.view, x, w, {}, {.stride = stride, .pad_before = 1, .pad_after = 1});
  const Tensor rows = y.view.reshaped({1, y.view.dim(1) * y.view.dim(2), w.dim(0)});
  op_.group_norm(rows, rows, weight(name + ".norm.weight"), weight(name + ".norm.bias"), kGroups,
                 kEps, true);
  return y;
}

HostTensor SaliencyNetwork::pointwise(const Tensor& x, const std::string& name) {
  const Tensor w = weight(name + ".weight");
  HostTensor y(x.dtype(), {1, x.dim(1), x.dim(2), w.dim(0)});
  op_.conv2d(y.view, x, w, weight(name + ".bias"), {.stride = 1, .pad_before = 0, .pad_after = 0});
  return y;
}

HostTensor SaliencyNetwork::doubled(const Tensor& x, const Tensor& skip) {
  HostTensor y(x.dtype(), {1, 2 * x.dim(1), 2 * x.dim(2), x.dim(3)});
  op_.upsample2x(y.view, x);
  op_.add_scaled(y.view, skip, 1);
  return y;
}

SaliencyMap SaliencyNetwork::look(const Picture& picture) {
  const int64_t H = picture.height, W = picture.width;
  CHECK(H % kMultiple == 0 && W % kMultiple == 0, "saliency: multiples of 32");
  const HostTensor x(DType::f32, {1, H, W, 3});
  pixels_to_model(x.view.item(0), picture);
  const HostTensor quarter = conv(conv(x.view, "halved", 2).view, "quarter", 2);
  const HostTensor eighth = conv(conv(quarter.view, "eighth.0", 2).view, "eighth.1", 1);
  const HostTensor sixteenth = conv(conv(eighth.view, "sixteenth.0", 2).view, "sixteenth.1", 1);
  const HostTensor bottom = conv(conv(sixteenth.view, "bottom.0", 2).view, "bottom.1", 1);
  HostTensor y = doubled(pointwise(bottom.view, "narrow").view, sixteenth.view);
  y = conv(y.view, "up_sixteenth", 1);
  y = conv(doubled(y.view, eighth.view).view, "up_eighth", 1);
  y = conv(doubled(y.view, quarter.view).view, "up_quarter", 1);
  y = pointwise(y.view, "out");
  SaliencyMap map{static_cast<int>(W / 4), static_cast<int>(H / 4), {}};
  const auto* const logits = y.view.as<const float>();
  map.p.resize(static_cast<size_t>(y.view.size()));
  std::transform(logits, logits + map.p.size(), map.p.begin(),
                 [](float v) { return 1.0F / (1.0F + std::exp(-v)); });
  return map;
}

std::optional<double> salient_middle(const SaliencyMap& map, bool across, double length) {
  const float surest = *std::max_element(map.p.begin(), map.p.end());
  if (!(surest >= kLeastSure)) return std::nullopt;
  const std::vector<double> sums = profile(map, across, surest / 2);
  const double all = std::accumulate(sums.begin(), sums.end(), 0.0);
  const double first = reaches(sums, kStray * all), last = reaches(sums, (1 - kStray) * all);
  if (last - first <= length) return (first + last) / 2;
  // More than the window holds: the most of it, tried at quarters of a cell.
  double best = first, most = -1;
  for (double at = 0; at <= double(sums.size()) - length + 1e-9; at += 0.25) {
    const double held = sum_up_to(sums, at + length) - sum_up_to(sums, at);
    if (held > most + 1e-9) {
      most = held;
      best = at;
    }
  }
  return best + length / 2;
}

}  // namespace fluxlora
