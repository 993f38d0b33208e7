// SPDX-License-Identifier: Apache-2.0
#include "train/groups.h"

#include "base/error.h"

namespace fluxlora::train {

std::vector<optim::Part> parameter_parts(const lora::AdapterSet& adapters,
                                         const TrainOptions& options) {
  std::vector<lora::NumberFor> rates = lora::numbers_by_pattern("train.rates", options.rates);
  std::vector<optim::Part> parts;
  for (const lora::Segment& s : adapters.segments()) {
    double rate = s.role == lora::Role::b ? options.b_ratio : 1;
    for (lora::NumberFor& r : rates) {
      if (!lora::fits(r.pattern, adapters.specs()[s.spec])) continue;
      r.used = true;
      rate *= r.number;
    }
    parts.push_back({s.offset, s.rows, s.columns, rate});
  }
  for (const lora::NumberFor& r : rates)
    if (!r.used)
      throw bad_input("train.rates", "\"" + r.pattern + "\" fits no trained layer",
                      "name modules as lora.targets does, or leave it out");
  return parts;
}

}  // namespace fluxlora::train
