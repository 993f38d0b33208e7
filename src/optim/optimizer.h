// SPDX-License-Identifier: Apache-2.0
// What every optimizer does: one update of the flat parameters. One optimizer a file.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ops/device.h"

namespace fluxlora::optim {

struct Options {
  std::string optimizer = "adamw";
  double beta1 = 0.9;
  double beta2 = 0;  ///< 0: the optimizer's own
  double eps = 1e-8, weight_decay = 0.01;
  double max_grad_norm = 1.0;  ///< 0 means no clipping
  /// Adafactor: the rate is its own, 1 / sqrt(step), times the size of a matrix.
  bool relative_step = false;
  /// Prodigy: its first guess of the distance, and what its guesses are multiplied by.
  double d0 = 1e-6, d_coef = 1;
  bool bias_correction = true;   ///< Prodigy: Adam's
  bool safeguard_warmup = true;  ///< Prodigy: a warm-up's small rates do not spoil the guess
  double ema = 0;                ///< memory of the mean of the parameters; 0: none is kept
  bool measure_noise = false;    ///< of the gradients
};

/// A matrix (rows, columns) of the flat parameters. Parts are in order; parameters between them
/// have no gradient.
struct Part {
  int64_t offset = 0;  ///< in elements
  int64_t rows = 0, columns = 0;
  double rate = 1;  ///< of the learning rate
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
  /// Returns the rate that was in effect where the rate is 1 by Part.
  virtual double step(const Tensor& params, const Tensor& grads, const Tensor& norm,
                      double learning_rate, int64_t update) = 0;
  /// Everything that must survive a stop, in a fixed order.
  virtual std::vector<StateTensor> state() = 0;
  /// Whether a mean of the parameters, not the parameters themselves, is the result.
  virtual bool averages() const { return false; }
  /// Overwrites the parameters with that mean. The caller keeps them for the next step.
  virtual void average(const Tensor& params) { (void)params; }
  /// How noisy the gradients of late were: the trace of their covariance over |their mean|²;
  /// nothing where it is not measured, or not known yet.
  virtual std::optional<double> noise() const { return std::nullopt; }
};

/// Sets what `options` leave to the optimizer. Throws Error (bad_input) for an unknown name and for
/// what does not go together.
void fill_in(Options& options);

/// The optimizer of parameters of `dtype` that consist of `parts`. Throws as fill_in().
std::unique_ptr<Optimizer> make_optimizer(Device& device, const Options& options,
                                          const std::vector<Part>& parts, DType dtype);

}  // namespace fluxlora::optim
