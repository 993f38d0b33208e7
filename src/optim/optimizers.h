// SPDX-License-Identifier: Apache-2.0
// Inside this room only: the optimizers, one file each. docs/training.md has their formulas.
#pragma once

#include "optim/optimizer.h"

namespace fluxlora::optim {

/// Adam with decoupled weight decay (Loshchilov and Hutter, 2019; flux-facts 7.10).
std::unique_ptr<Optimizer> make_adamw(Device& device, const Options& options,
                                      const std::vector<Part>& parts, DType dtype);

/// The sign of a mean of gradients (Chen et al., 2023).
std::unique_ptr<Optimizer> make_lion(Device& device, const Options& options,
                                     const std::vector<Part>& parts, DType dtype);

/// AdamW whose moments are kept in 8 bit (Dettmers et al., 2022).
std::unique_ptr<Optimizer> make_adamw8bit(Device& device, const Options& options,
                                          const std::vector<Part>& parts, DType dtype);

/// AdamW on a sequence whose mean is the result, in place of a schedule (Defazio et al., 2024).
std::unique_ptr<Optimizer> make_schedule_free(Device& device, const Options& options,
                                              const std::vector<Part>& parts, DType dtype);

/// Adam that finds its rate from the distance travelled (Mishchenko and Defazio, 2024). All parts
/// have one rate: throws Error (bad_input) otherwise.
std::unique_ptr<Optimizer> make_prodigy(Device& device, const Options& options,
                                        const std::vector<Part>& parts, DType dtype);

/// Second moments by row and by column alone, with fixed or relative steps (Shazeer and Stern,
/// 2018).
std::unique_ptr<Optimizer> make_adafactor(Device& device, const Options& options,
                                          const std::vector<Part>& parts, DType dtype);

/// `inner` beside a mean of the parameters: mean = k mean + (1 - k) p after step t, with k =
/// min(decay, t / (9 + t)), so that the start is forgotten; at t = 1 it is p.
std::unique_ptr<Optimizer> make_ema(Device& device, std::unique_ptr<Optimizer> inner, double decay,
                                    const std::vector<Part>& parts, DType dtype);

/// `inner`, whose noise() is measured: a mean of the gradients is kept beside it.
std::unique_ptr<Optimizer> make_noise_meter(Device& device, std::unique_ptr<Optimizer> inner,
                                            const std::vector<Part>& parts, DType dtype);

}  // namespace fluxlora::optim
