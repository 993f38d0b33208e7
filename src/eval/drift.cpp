// SPDX-License-Identifier: Apache-2.0
#include "eval/drift.h"

#include <algorithm>
#include <cmath>

#include "base/philox.h"
#include "flow/euler.h"

namespace fluxlora::eval {

Drift::Drift(Predictor& predictor, const SchedulerConfig& scheduler,
             const std::vector<const PromptStates*>& prompts, const DriftOptions& options)
    : predictor_(predictor), options_(options) {
  predictor_.prepare(options_.size);
  for (size_t i = 0; i < prompts.size(); ++i)
    follow(scheduler, *prompts[i], static_cast<uint32_t>(i));
}

/// Euler's steps from noise: x += (t_next - t) v.
void Drift::follow(const SchedulerConfig& scheduler, const PromptStates& prompt, uint32_t index) {
  const int64_t N = options_.size.first / 2 * (options_.size.second / 2);
  const int64_t C = predictor_.channels();
  const std::vector<double> times = flow::sampling_times(scheduler, options_.points, N);
  HostTensor x(DType::f32, {1, N, C});
  Philox random(options_.seed, Draw::drift, index);
  std::generate_n(x.view.as<float>(), x.view.size(),
                  [&] { return static_cast<float>(random.normal()); });
  for (size_t i = 0; i + 1 < times.size(); ++i) {
    Point point{HostTensor(DType::f32, {1, N, C}),
                HostTensor(DType::f32, {1, N, C}),
                {&prompt, times[i], options_.guidance}};
    std::copy_n(x.view.as<const float>(), x.view.size(), point.x.view.as<float>());
    predictor_.base(point.v.view, point.x.view, options_.size, point.query);
    const float* const v = point.v.view.as<const float>();
    for (int64_t j = 0; j < x.view.size(); ++j)
      x.view.as<float>()[j] += static_cast<float>((times[i + 1] - times[i]) * v[j]);
    points_.push_back(std::move(point));
  }
}

Drift::Sums Drift::sums(const Point& point) {
  HostTensor velocity(DType::f32, {1, point.x.view.dim(1), point.x.view.dim(2)});
  predictor_.adapted(velocity.view, point.x.view, options_.size, point.query);
  const float* const v = velocity.view.as<const float>();
  const float* const base = point.v.view.as<const float>();
  Sums sums;
  for (int64_t i = 0; i < velocity.view.size(); ++i) {
    const double change = static_cast<double>(v[i]) - base[i];
    sums.moved += change * change;
    sums.base += static_cast<double>(base[i]) * base[i];
  }
  return sums;
}

std::vector<double> Drift::by_prompt() {
  std::vector<double> all;
  const auto each = static_cast<size_t>(options_.points);
  for (size_t first = 0; first < points_.size(); first += each) {
    Sums total;
    for (size_t i = first; i < first + each; ++i) {
      const Sums one = sums(points_[i]);
      total.moved += one.moved;
      total.base += one.base;
    }
    all.push_back(std::sqrt(total.moved / total.base));
  }
  return all;
}

double Drift::overall() {
  Sums total;
  for (const Point& point : points_) {
    const Sums one = sums(point);
    total.moved += one.moved;
    total.base += one.base;
  }
  return total.base > 0 ? std::sqrt(total.moved / total.base) : 0;
}

}  // namespace fluxlora::eval
