// SPDX-License-Identifier: Apache-2.0
// The validation loss: flow matching on held-out pictures with fixed noise at fixed times, so that
// two of them differ by what was learnt alone.
#pragma once

#include <vector>

#include "eval/predictor.h"

namespace fluxlora::eval {

/// A picture that validates.
struct ValidationPicture {
  LatentSize size;
  Tensor tokens;  // (1, N, 4C): packed latents x0, f32, host memory
  const PromptStates* prompt = nullptr;
  Tensor mask = {};  // (1, N, 4) as of Ops::flow_loss; empty: all of it counts
};

struct ValidationOptions {
  uint64_t seed = 0;      ///< of the noise
  int64_t timesteps = 4;  ///< flow times of each picture
  double guidance = 1;
};

/// The times of a validation: the middles of `count` equal parts of [0, 1].
std::vector<double> validation_times(int64_t count);

/// Mean over pictures i and times t of |v(x_t, t) - (e - x0)|² / (N 4C), x_t = (1 - t) x0 + t e
/// (flux-facts 6.1), with e a function of (seed, i, t) alone; a mask multiplies the squares. Sums
/// are f64 in a fixed order.
class Validation {
 public:
  /// Prompts, tokens and predictor outlive it.
  Validation(Predictor& predictor, std::vector<ValidationPicture> pictures,
             const ValidationOptions& options);

  /// Of the model with its adapters as they are now.
  double loss();
  /// The same by picture.
  std::vector<double> losses();

 private:
  double loss(size_t picture, int64_t time);

  Predictor& predictor_;
  std::vector<ValidationPicture> pictures_;
  ValidationOptions options_;
  std::vector<double> times_;
};

}  // namespace fluxlora::eval
