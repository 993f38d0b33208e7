// SPDX-License-Identifier: Apache-2.0
// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019; flux-facts 7.10).
#pragma once

#include "optim/optimizer.h"

namespace fluxlora::optim {

std::unique_ptr<Optimizer> make_adamw(Device& device, const Options& options, int64_t size,
                                      DType dtype);

}  // namespace fluxlora::optim
