// SPDX-License-Identifier: Apache-2.0
#include "optim/optimizer.h"

#include "base/error.h"
#include "optim/adamw.h"

namespace fluxlora::optim {

std::unique_ptr<Optimizer> make_optimizer(Device& device, const Options& options, int64_t size,
                                          DType dtype) {
  if (options.optimizer == "adamw") return make_adamw(device, options, size, dtype);
  throw bad_input("train.optimizer", "\"" + options.optimizer + "\" is not an optimizer",
                  "use adamw");
}

}  // namespace fluxlora::optim
