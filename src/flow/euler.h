// SPDX-License-Identifier: Apache-2.0
// The sampler: Euler steps along the flow (flux-facts 6.5).
#pragma once

#include <vector>

#include "model/flux/transformer.h"
#include "model/pipeline.h"

namespace fluxlora::flow {

/// steps + 1 times from 1 to 0, as FluxPipeline makes them for a picture of `tokens` image tokens.
std::vector<double> sampling_times(const SchedulerConfig& scheduler, int64_t steps, int64_t tokens);

/// Integrates from noise to latents: on entry workspace.inputs() holds text states, pooled vector,
/// guidance and, in img, pure noise; on return img holds packed latents at time 0.
void sample(Device& device, flux::Workspace& workspace, const std::vector<double>& times);

}  // namespace fluxlora::flow
