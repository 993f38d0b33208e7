// SPDX-License-Identifier: Apache-2.0
#include "eval/validation.h"

#include <numeric>

#include "base/philox.h"

namespace fluxlora::eval {

std::vector<double> validation_times(int64_t count) {
  std::vector<double> times;
  for (int64_t i = 0; i < count; ++i)
    times.push_back((static_cast<double>(i) + 0.5) / static_cast<double>(count));
  return times;
}

Validation::Validation(Predictor& predictor, std::vector<ValidationPicture> pictures,
                       const ValidationOptions& options)
    : predictor_(predictor),
      pictures_(std::move(pictures)),
      options_(options),
      times_(validation_times(options.timesteps)) {
  for (const ValidationPicture& picture : pictures_) predictor_.prepare(picture.size);
}

double Validation::loss(size_t picture, int64_t time) {
  const ValidationPicture& p = pictures_[picture];
  const int64_t count = p.tokens.size();
  const double t = times_[static_cast<size_t>(time)];
  HostTensor noise(DType::f32, {1, p.tokens.dim(1), p.tokens.dim(2)});
  HostTensor x(DType::f32, {1, p.tokens.dim(1), p.tokens.dim(2)});
  HostTensor velocity(DType::f32, {1, p.tokens.dim(1), p.tokens.dim(2)});
  float* const e = noise.view.as<float>();
  const float* const x0 = p.tokens.as<const float>();
  Philox random(options_.seed, Draw::validation, static_cast<uint32_t>(picture),
                static_cast<uint32_t>(time));
  for (int64_t i = 0; i < count; ++i) {
    e[i] = static_cast<float>(random.normal());
    x.view.as<float>()[i] = static_cast<float>((1 - t) * x0[i] + t * e[i]);
  }
  predictor_.adapted(velocity.view, x.view, p.size, {p.prompt, t, options_.guidance});
  const float* const v = velocity.view.as<const float>();
  const int64_t C = p.tokens.dim(2), P = p.mask ? p.mask.dim(2) : 1;
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double error = v[i] - (static_cast<double>(e[i]) - x0[i]);
    sum += error * error * (p.mask ? p.mask.as<const float>()[i / C * P + i % C % P] : 1);
  }
  return sum / static_cast<double>(count);
}

std::vector<double> Validation::losses() {
  std::vector<double> all;
  for (size_t picture = 0; picture < pictures_.size(); ++picture) {
    double sum = 0;
    for (int64_t time = 0; time < options_.timesteps; ++time) sum += loss(picture, time);
    all.push_back(sum / static_cast<double>(options_.timesteps));
  }
  return all;
}

double Validation::loss() {
  const std::vector<double> all = losses();
  return std::accumulate(all.begin(), all.end(), 0.0) / static_cast<double>(all.size());
}

}  // namespace fluxlora::eval
