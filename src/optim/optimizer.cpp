// SPDX-License-Identifier: Apache-2.0
#include "optim/optimizer.h"

#include <utility>

#include "base/error.h"
#include "optim/optimizers.h"

namespace fluxlora::optim {
namespace {

struct Kind {
  const char* name;
  decltype(&make_adamw) make;
  double beta2;
};

constexpr Kind kKinds[] = {
    {"adamw", make_adamw, 0.999},         {"adamw8bit", make_adamw8bit, 0.999},
    {"adafactor", make_adafactor, 0.999}, {"lion", make_lion, 0.99},
    {"prodigy", make_prodigy, 0.999},     {"schedule_free", make_schedule_free, 0.999}};

const Kind& kind_of(const Options& options) {
  std::string names;
  for (const Kind& kind : kKinds) {
    if (options.optimizer == kind.name) return kind;
    names += names.empty() ? kind.name : std::string(", ") + kind.name;
  }
  throw bad_input("train.optimizer", "\"" + options.optimizer + "\" is not an optimizer",
                  "use one of " + names);
}

}  // namespace

void fill_in(Options& options) {
  const Kind& kind = kind_of(options);
  if (options.beta2 == 0) options.beta2 = kind.beta2;
  if (kind.make == make_schedule_free && options.ema > 0)
    throw bad_input("train.ema", "schedule_free keeps a mean of its own", "set it to 0");
  if (kind.make == make_schedule_free && options.beta1 == 0)
    throw bad_input("train.beta1", "is 0, and schedule_free divides by it", "0.9 is usual");
}

std::unique_ptr<Optimizer> make_optimizer(Device& device, const Options& options,
                                          const std::vector<Part>& parts, DType dtype) {
  Options filled = options;
  fill_in(filled);
  auto optimizer = kind_of(filled).make(device, filled, parts, dtype);
  if (filled.ema > 0) optimizer = make_ema(device, std::move(optimizer), filled.ema, parts, dtype);
  if (filled.measure_noise)
    optimizer = make_noise_meter(device, std::move(optimizer), parts, dtype);
  return optimizer;
}

}  // namespace fluxlora::optim
