// SPDX-License-Identifier: Apache-2.0
#include "optim/adamw.h"

#include <cmath>

#include "memory/arena.h"

namespace fluxlora::optim {
namespace {

class AdamW final : public Optimizer {
 public:
  AdamW(Device& device, const Options& o, int64_t size, DType dtype)
      : device_(device),
        options_{o.beta1, o.beta2, o.eps, o.weight_decay, o.max_grad_norm},
        arena_(device, measure(size, dtype)) {
    describe(arena_, size, dtype);
    device.ops().fill(m_, 0);
    device.ops().fill(v_, 0);
  }

  void step(const Tensor& params, const Tensor& grads, const Tensor& norm, double learning_rate,
            int64_t update) override {
    const double t = static_cast<double>(update);
    const double values[3] = {learning_rate, 1 - std::pow(options_.beta1, t),
                              1 - std::pow(options_.beta2, t)};
    float single[3];
    convert(DType::f32, single, DType::f64, values, 3);
    const bool wide = scalars_.dtype() == DType::f64;
    device_.upload(scalars_, wide ? static_cast<const void*>(values) : single);
    device_.ops().adamw_step(params, m_, v_, grads, norm, scalars_, options_);
  }

  std::vector<StateTensor> state() override { return {{"adamw.m", m_}, {"adamw.v", v_}}; }

 private:
  void describe(Arena& arena, int64_t size, DType dtype) {
    m_ = arena.take("optimizer", dtype, {size});
    v_ = arena.take("optimizer", dtype, {size});
    scalars_ = arena.take("optimizer", dtype, {3});
  }
  int64_t measure(int64_t size, DType dtype) {
    Arena arena;
    describe(arena, size, dtype);
    return arena.used();
  }

  Device& device_;
  AdamWOptions options_;
  Tensor m_, v_;    // (size)
  Tensor scalars_;  // (3): learning rate, 1 - beta1^t, 1 - beta2^t
  Arena arena_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adamw(Device& device, const Options& options, int64_t size,
                                      DType dtype) {
  return std::make_unique<AdamW>(device, options, size, dtype);
}

}  // namespace fluxlora::optim
