// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <utility>

#include "optim/optimizers.h"
#include "optim/ranges.h"
#include "optim/state_memory.h"

namespace fluxlora::optim {
namespace {

constexpr double kMemory = 0.95;  // of the mean gradient, and of both estimates

/// Gradients g of independent noise around G: |g|² is |G|² + S on average, S the noise's square,
/// and |mean|² of gradients with weights w_i is |G|² + S Σ w_i². Two equations for |G|² and S,
/// whose estimates are smoothed alike.
class NoiseMeter final : public Optimizer {
 public:
  NoiseMeter(Device& device, std::unique_ptr<Optimizer> inner, const std::vector<Part>& parts,
             DType dtype)
      : device_(device),
        inner_(std::move(inner)),
        norm_(device, {{"norm", dtype, 1}}),
        state_(device, {{"noise.mean", dtype, size_of(parts)}, {"noise.squares", DType::f64, 2}}) {}

  double step(const Tensor& params, const Tensor& grads, const Tensor& norm, double learning_rate,
              int64_t update) override {
    const Tensor& mean = state_[0];
    Ops& op = device_.ops();
    op.add_scaled(mean, mean, kMemory - 1);
    op.add_scaled(mean, grads.slice(0, 0, mean.size()), 1 - kMemory);
    op.global_norm(norm_[0], mean);
    if (update > 1) estimate(square(norm), square(norm_[0]), static_cast<double>(update));
    return inner_->step(params, grads, norm, learning_rate, update);
  }

  std::vector<StateTensor> state() override {
    std::vector<StateTensor> all = inner_->state();
    all.insert(all.end(), state_.tensors().begin(), state_.tensors().end());
    return all;
  }
  bool averages() const override { return inner_->averages(); }
  void average(const Tensor& params) override { inner_->average(params); }
  std::optional<double> noise() const override { return noise_; }

 private:
  double square(const Tensor& norm) const {
    HostTensor host(norm.dtype(), {1});
    device_.download(host.view.data(), norm);
    double length = 0;
    convert(DType::f64, &length, norm.dtype(), host.view.data(), 1);
    return length * length;
  }

  void estimate(double of_gradient, double of_mean, double t) {
    const double forgotten = std::pow(kMemory, t), weight = 1 - forgotten;  // Σ w before division
    const double squares = (1 - kMemory) * (1 + forgotten) / ((1 + kMemory) * weight);
    const double mean = of_mean / (weight * weight);
    const double noise = (of_gradient - mean) / (1 - squares), signal = mean - squares * noise;
    std::vector<double> smooth = state_.numbers(1);
    smooth[0] += (1 - kMemory) * (noise - smooth[0]);
    smooth[1] += (1 - kMemory) * (signal - smooth[1]);
    state_.set_numbers(1, smooth);
    noise_.reset();
    if (smooth[1] > 0) noise_ = smooth[0] / smooth[1];
  }

  Device& device_;
  std::unique_ptr<Optimizer> inner_;
  StateMemory norm_;   // |mean|
  StateMemory state_;  // the mean gradient; S and |G|², smoothed
  std::optional<double> noise_;
};

}  // namespace

std::unique_ptr<Optimizer> make_noise_meter(Device& device, std::unique_ptr<Optimizer> inner,
                                            const std::vector<Part>& parts, DType dtype) {
  return std::make_unique<NoiseMeter>(device, std::move(inner), parts, dtype);
}

}  // namespace fluxlora::optim
