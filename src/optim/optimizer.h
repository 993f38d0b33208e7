// SPDX-License-Identifier: Apache-2.0
// What every optimizer does: one update of the flat parameters. One optimizer a file.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops/device.h"

namespace fluxlora::optim {

struct Options {
  std::string optimizer = "adamw";
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
  double max_grad_norm = 1.0;  ///< 0 means no clipping
};

/// A named piece of an optimizer's state, for checkpoints.
struct StateTensor {
  std::string name;
  Tensor view;  // device memory, contiguous
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// params -= what grads say at this learning rate; `update` counts from 1. norm[0] = |grads| is
  /// computed by the caller (Ops::global_norm) and used for the clip.
  virtual void step(const Tensor& params, const Tensor& grads, const Tensor& norm,
                    double learning_rate, int64_t update) = 0;
  /// Everything that must survive a stop, in a fixed order.
  virtual std::vector<StateTensor> state() = 0;
};

/// Throws Error (bad_input) for an unknown name. `size` parameters of `dtype`.
std::unique_ptr<Optimizer> make_optimizer(Device& device, const Options& options, int64_t size,
                                          DType dtype);

}  // namespace fluxlora::optim
