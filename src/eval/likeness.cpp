// SPDX-License-Identifier: Apache-2.0
#include "eval/likeness.h"

#include <array>
#include <cmath>
#include <vector>

#include "base/error.h"

namespace fluxlora::eval {
namespace {

template <typename Number>
double correlation(const Number* a, const Number* b, int64_t count) {
  double mean_a = 0, mean_b = 0;
  for (int64_t i = 0; i < count; ++i) {
    mean_a += a[i];
    mean_b += b[i];
  }
  mean_a /= static_cast<double>(count);
  mean_b /= static_cast<double>(count);
  double ab = 0, aa = 0, bb = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double x = a[i] - mean_a, y = b[i] - mean_b;
    ab += x * y;
    aa += x * x;
    bb += y * y;
  }
  return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0;
}

void check(const Tensor& a, const Tensor& b) {
  CHECK(a.dtype() == DType::f32 && b.dtype() == DType::f32 && a.size() == b.size(),
        "likeness of " + a.describe() + " and " + b.describe());
}

std::vector<double> luminance(const Picture& picture) {
  std::vector<double> y;
  for (size_t i = 0; i < picture.rgb.size(); i += 3)
    y.push_back(0.299 * picture.rgb[i] + 0.587 * picture.rgb[i + 1] + 0.114 * picture.rgb[i + 2]);
  return y;
}

std::array<double, 3> mean_colour(const Picture& picture) {
  std::array<double, 3> mean{};
  for (size_t i = 0; i < picture.rgb.size(); ++i) mean[i % 3] += picture.rgb[i];
  for (double& value : mean) value /= 255 * static_cast<double>(picture.rgb.size() / 3);
  return mean;
}

}  // namespace

double correlation(const Tensor& a, const Tensor& b) {
  check(a, b);
  return correlation(a.as<const float>(), b.as<const float>(), a.size());
}

double rms_difference(const Tensor& a, const Tensor& b) {
  check(a, b);
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a.as<const float>()[i]) - b.as<const float>()[i];
    sum += d * d;
  }
  return std::sqrt(sum / static_cast<double>(a.size()));
}

PictureChange picture_change(const Picture& before, const Picture& after) {
  CHECK(before.rgb.size() == after.rgb.size() && !before.rgb.empty(), "picture_change: sizes");
  const auto x = mean_colour(before), y = mean_colour(after);
  double squares = 0;
  for (size_t c = 0; c < 3; ++c) squares += (x[c] - y[c]) * (x[c] - y[c]);
  const std::vector<double> a = luminance(before), b = luminance(after);
  return {std::sqrt(squares / 3),
          1 - correlation(a.data(), b.data(), static_cast<int64_t>(a.size()))};
}

}  // namespace fluxlora::eval
