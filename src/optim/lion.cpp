// SPDX-License-Identifier: Apache-2.0
#include "optim/optimizers.h"
#include "optim/ranges.h"
#include "optim/state_memory.h"

namespace fluxlora::optim {
namespace {

class Lion final : public Optimizer {
 public:
  Lion(Device& device, const Options& o, const std::vector<Part>& parts, DType dtype)
      : device_(device),
        options_{o.beta1, o.beta2, o.weight_decay, o.max_grad_norm},
        ranges_(device, parts, dtype, 1),
        state_(device, {{"lion.m", dtype, size_of(parts)}}) {}

  double step(const Tensor& params, const Tensor& grads, const Tensor& norm, double learning_rate,
              int64_t) override {
    ranges_.set([&](double rate) { return std::vector<double>{learning_rate * rate}; });
    for (const Range& r : ranges_)
      device_.ops().lion_step(r.of(params), r.of(state_[0]), r.of(grads), norm, r.scalars,
                              options_);
    return learning_rate;
  }

  std::vector<StateTensor> state() override { return state_.tensors(); }

 private:
  Device& device_;
  LionOptions options_;
  Ranges ranges_;      // scalars: learning rate
  StateMemory state_;  // m
};

}  // namespace

std::unique_ptr<Optimizer> make_lion(Device& device, const Options& options,
                                     const std::vector<Part>& parts, DType dtype) {
  return std::make_unique<Lion>(device, options, parts, dtype);
}

}  // namespace fluxlora::optim
