// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "optim/optimizers.h"
#include "optim/ranges.h"
#include "optim/state_memory.h"

namespace fluxlora::optim {
namespace {

class AdamW final : public Optimizer {
 public:
  AdamW(Device& device, const Options& o, const std::vector<Part>& parts, DType dtype)
      : device_(device),
        options_{o.beta1, o.beta2, o.eps, o.weight_decay, o.max_grad_norm},
        ranges_(device, parts, dtype, 3),
        state_(device, {{"adamw.m", dtype, size_of(parts)}, {"adamw.v", dtype, size_of(parts)}}) {}

  double step(const Tensor& params, const Tensor& grads, const Tensor& norm, double learning_rate,
              int64_t update) override {
    const double t = static_cast<double>(update);
    ranges_.set([&](double rate) {
      return std::vector<double>{learning_rate * rate, 1 - std::pow(options_.beta1, t),
                                 1 - std::pow(options_.beta2, t)};
    });
    for (const Range& r : ranges_)
      device_.ops().adamw_step(r.of(params), r.of(state_[0]), r.of(state_[1]), r.of(grads), norm,
                               r.scalars, options_);
    return learning_rate;
  }

  std::vector<StateTensor> state() override { return state_.tensors(); }

 private:
  Device& device_;
  AdamWOptions options_;
  Ranges ranges_;      // scalars: learning rate, 1 - beta1^t, 1 - beta2^t
  StateMemory state_;  // m, v
};

}  // namespace

std::unique_ptr<Optimizer> make_adamw(Device& device, const Options& options,
                                      const std::vector<Part>& parts, DType dtype) {
  return std::make_unique<AdamW>(device, options, parts, dtype);
}

}  // namespace fluxlora::optim
