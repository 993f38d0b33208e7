// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "optim/optimizers.h"
#include "optim/ranges.h"
#include "optim/state_memory.h"

namespace fluxlora::optim {
namespace {

class Ema final : public Optimizer {
 public:
  Ema(Device& device, std::unique_ptr<Optimizer> inner, double decay,
      const std::vector<Part>& parts, DType dtype)
      : device_(device),
        inner_(std::move(inner)),
        decay_(decay),
        state_(device, {{"ema", dtype, size_of(parts)}}) {}

  double step(const Tensor& params, const Tensor& grads, const Tensor& norm, double learning_rate,
              int64_t update) override {
    const Tensor &mean = state_[0], p = params.slice(0, 0, mean.size());
    const double rate = inner_->step(params, grads, norm, learning_rate, update);
    if (update == 1) {
      device_.ops().copy(mean, p);
      return rate;
    }
    const auto t = static_cast<double>(update);
    const double share = 1 - std::min(decay_, t / (9 + t));
    device_.ops().add_scaled(mean, mean, -share);
    device_.ops().add_scaled(mean, p, share);
    return rate;
  }

  std::vector<StateTensor> state() override {
    std::vector<StateTensor> all = inner_->state();
    all.push_back(state_.tensors().front());
    return all;
  }

  bool averages() const override { return true; }
  void average(const Tensor& params) override {
    device_.ops().copy(params.slice(0, 0, state_[0].size()), state_[0]);
  }

 private:
  Device& device_;
  std::unique_ptr<Optimizer> inner_;
  double decay_;
  StateMemory state_;  // the mean
};

}  // namespace

std::unique_ptr<Optimizer> make_ema(Device& device, std::unique_ptr<Optimizer> inner, double decay,
                                    const std::vector<Part>& parts, DType dtype) {
  return std::make_unique<Ema>(device, std::move(inner), decay, parts, dtype);
}

}  // namespace fluxlora::optim
