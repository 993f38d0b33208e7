// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "optim/optimizers.h"
#include "optim/ranges.h"
#include "optim/state_memory.h"

namespace fluxlora::optim {
namespace {

/// The trained parameters are y, where gradients are taken; z goes the way of plain AdamW; the
/// result is x, a mean of all z weighted by the square of the largest rate so far:
/// y = (1 - beta1) z + beta1 x.
class ScheduleFree final : public Optimizer {
 public:
  ScheduleFree(Device& device, const Options& o, const std::vector<Part>& parts, DType dtype)
      : device_(device),
        options_{o.beta1, o.beta2, o.eps, o.weight_decay, o.max_grad_norm},
        ranges_(device, parts, dtype, 3),
        state_(device, {{"schedule_free.z", dtype, size_of(parts)},
                        {"schedule_free.v", dtype, size_of(parts)},
                        {"schedule_free.weights", DType::f64, 2}}) {}

  double step(const Tensor& params, const Tensor& grads, const Tensor& norm, double learning_rate,
              int64_t update) override {
    const Tensor &z = state_[0], &v = state_[1];
    if (update == 1) device_.ops().copy(z, params.slice(0, 0, z.size()));
    std::vector<double> weights = state_.numbers(2);  // the largest rate, the sum of weights
    weights[0] = std::max(weights[0], learning_rate);
    const double weight = weights[0] * weights[0];
    weights[1] += weight;
    state_.set_numbers(2, weights);
    const double share = weights[1] > 0 ? weight / weights[1] : 0;
    const double correction = 1 - std::pow(options_.beta2, static_cast<double>(update));
    ranges_.set(
        [&](double rate) { return std::vector<double>{learning_rate * rate, share, correction}; });
    for (const Range& r : ranges_)
      device_.ops().schedule_free_step(r.of(params), r.of(z), r.of(v), r.of(grads), norm, r.scalars,
                                       options_);
    return learning_rate;
  }

  std::vector<StateTensor> state() override { return state_.tensors(); }

  bool averages() const override { return true; }

  /// x = y + (1 / beta1 - 1) (y - z).
  void average(const Tensor& params) override {
    const double further = 1 / options_.beta1 - 1;
    const Tensor y = params.slice(0, 0, state_[0].size());
    device_.ops().add_scaled(y, y, further);
    device_.ops().add_scaled(y, state_[0], -further);
  }

 private:
  Device& device_;
  ScheduleFreeOptions options_;
  Ranges ranges_;      // scalars: learning rate, share of z in x, 1 - beta2^t
  StateMemory state_;  // z, v, and two numbers
};

}  // namespace

std::unique_ptr<Optimizer> make_schedule_free(Device& device, const Options& options,
                                              const std::vector<Part>& parts, DType dtype) {
  return std::make_unique<ScheduleFree>(device, options, parts, dtype);
}

}  // namespace fluxlora::optim
