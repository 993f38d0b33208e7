// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "optim/optimizers.h"
#include "optim/ranges.h"
#include "optim/state_memory.h"

namespace fluxlora::optim {
namespace {

constexpr double kDecayRate = -0.8;
constexpr double kLargestRelativeStep = 1e-2;

int64_t rows_of(const std::vector<Part>& parts) {
  int64_t rows = 0;
  for (const Part& part : parts) rows += part.rows;
  return rows;
}

int64_t columns_of(const std::vector<Part>& parts) {
  int64_t columns = 0;
  for (const Part& part : parts) columns += part.columns;
  return columns;
}

class Adafactor final : public Optimizer {
 public:
  Adafactor(Device& device, const Options& o, const std::vector<Part>& parts, DType dtype)
      : device_(device),
        options_{.weight_decay = o.weight_decay,
                 .scale_parameter = o.relative_step,
                 .max_norm = o.max_grad_norm},
        parts_(parts),
        ranges_(device, parts, dtype, 2),
        state_(device, {{"adafactor.rows", dtype, rows_of(parts)},
                        {"adafactor.columns", dtype, columns_of(parts)}}) {}

  double step(const Tensor& params, const Tensor& grads, const Tensor& norm, double learning_rate,
              int64_t update) override {
    const auto t = static_cast<double>(update);
    const double lr =
        options_.scale_parameter ? std::min(kLargestRelativeStep, 1 / std::sqrt(t)) : learning_rate;
    ranges_.set(
        [&](double rate) { return std::vector<double>{lr * rate, 1 - std::pow(t, kDecayRate)}; });
    int64_t row = 0, column = 0;
    auto range = ranges_.begin();
    for (const Part& part : parts_) {
      if (part.offset >= range->first + range->count) ++range;
      const auto matrix = [&](const Tensor& flat) {
        return flat.slice(0, part.offset, part.rows * part.columns)
            .reshaped({part.rows, part.columns});
      };
      device_.ops().adafactor_step(matrix(params), state_[0].slice(0, row, part.rows),
                                   state_[1].slice(0, column, part.columns), matrix(grads), norm,
                                   range->scalars, options_);
      row += part.rows;
      column += part.columns;
    }
    return lr;
  }

  std::vector<StateTensor> state() override { return state_.tensors(); }

 private:
  Device& device_;
  AdafactorOptions options_;
  std::vector<Part> parts_;
  Ranges ranges_;      // scalars: learning rate, memory of the second moments
  StateMemory state_;  // rows and columns of all parts, one after the other
};

}  // namespace

std::unique_ptr<Optimizer> make_adafactor(Device& device, const Options& options,
                                          const std::vector<Part>& parts, DType dtype) {
  return std::make_unique<Adafactor>(device, options, parts, dtype);
}

}  // namespace fluxlora::optim
