// SPDX-License-Identifier: Apache-2.0
#include "flow/euler.h"

#include "flow/timestep.h"

namespace fluxlora::flow {

std::vector<double> sampling_times(const SchedulerConfig& scheduler, int64_t steps,
                                   int64_t tokens) {
  const double factor = scheduler.use_dynamic_shifting
                            ? resolution_shift(tokens, scheduler.base_shift, scheduler.max_shift,
                                               scheduler.base_tokens, scheduler.max_tokens)
                            : scheduler.shift;
  std::vector<double> times;
  for (int64_t i = 0; i < steps; ++i)
    times.push_back(shift_time(1 - static_cast<double>(i) / static_cast<double>(steps), factor));
  times.push_back(0);
  return times;
}

void sample(Device& device, flux::Workspace& workspace, const std::vector<double>& times) {
  const flux::Inputs& in = workspace.inputs();
  for (size_t i = 0; i + 1 < times.size(); ++i) {
    device.ops().fill(in.t, times[i]);
    workspace.forward();
    device.ops().add_scaled(in.img, workspace.prediction(), times[i + 1] - times[i]);
  }
}

}  // namespace fluxlora::flow
