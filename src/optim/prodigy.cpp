// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "optim/optimizers.h"
#include "optim/ranges.h"
#include "optim/state_memory.h"

namespace fluxlora::optim {
namespace {

/// The rate is d times the learning rate, d a guess from below of the distance to the solution.
class Prodigy final : public Optimizer {
 public:
  Prodigy(Device& device, const Options& o, const std::vector<Part>& parts, DType dtype)
      : device_(device),
        wishes_(o),
        options_{o.beta1, o.beta2, std::sqrt(o.beta2), o.eps, o.weight_decay, o.max_grad_norm},
        scalars_(device, parts, dtype, 2),
        sums_(device, {{"sums", dtype, 2}}),
        state_(device, {{"prodigy.m", dtype, size_of(parts)},
                        {"prodigy.v", dtype, size_of(parts)},
                        {"prodigy.s", dtype, size_of(parts)},
                        {"prodigy.p0", dtype, size_of(parts)},
                        {"prodigy.d", DType::f64, 2}}) {
    for (const Range& r : scalars_)
      if (r.rate != 1)
        throw bad_input("train.rates", "prodigy finds one rate for all parameters",
                        "leave out train.rates and train.b_ratio, or use another optimizer");
  }

  double step(const Tensor& params, const Tensor& grads, const Tensor& norm, double learning_rate,
              int64_t update) override {
    Ops& op = device_.ops();
    const ProdigyState state{state_[0], state_[1], state_[2], state_[3]};
    const int64_t size = state.p0.size();
    const Tensor p = params.slice(0, 0, size), g = grads.slice(0, 0, size);
    if (update == 1) {
      op.copy(state.p0, p);
      state_.set_numbers(4, {wishes_.d0, 0});
    }
    const std::vector<double> before = state_.numbers(4);
    const double d = before[0], rate = d * learning_rate * correction(update);
    const double weight = d / wishes_.d0 * (wishes_.safeguard_warmup ? d : rate);
    const Tensor& scalars = scalars_.begin()->scalars;
    scalars_.set([&](double) { return std::vector<double>{d, weight}; });
    op.prodigy_moments(sums_[0], p, state, g, norm, scalars, options_);
    const double next = grown(before, d / wishes_.d0 * rate);
    scalars_.set([&](double) { return std::vector<double>{rate, next}; });
    op.prodigy_step(p, state, scalars, options_);
    return rate;
  }

  std::vector<StateTensor> state() override { return state_.tensors(); }

 private:
  double correction(int64_t update) const {
    if (!wishes_.bias_correction) return 1;
    const auto t = static_cast<double>(update);
    return std::sqrt(1 - std::pow(options_.beta2, t)) / (1 - std::pow(options_.beta1, t));
  }

  /// d after this step: the largest guess so far. `before`: d and the guesses' numerator.
  double grown(const std::vector<double>& before, double weight) {
    HostTensor host(sums_[0].dtype(), {2});
    device_.download(host.view.data(), sums_[0]);
    double sums[2];
    convert(DType::f64, sums, host.view.dtype(), host.view.data(), 2);
    if (sums[1] == 0) return before[0];  // no gradient has come yet
    const double numerator = options_.beta3 * before[1] + weight * sums[0];
    const double d = std::max(before[0], wishes_.d_coef * numerator / sums[1]);
    state_.set_numbers(4, {d, numerator});
    return d;
  }

  Device& device_;
  Options wishes_;
  ProdigyOptions options_;
  Ranges scalars_;     // two numbers of one range
  StateMemory sums_;   // what prodigy_moments() gives
  StateMemory state_;  // m, v, s, p0; d and the numerator of its guesses
};

}  // namespace

std::unique_ptr<Optimizer> make_prodigy(Device& device, const Options& options,
                                        const std::vector<Part>& parts, DType dtype) {
  return std::make_unique<Prodigy>(device, options, parts, dtype);
}

}  // namespace fluxlora::optim
