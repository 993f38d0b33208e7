// SPDX-License-Identifier: Apache-2.0
// Regularisation pictures that the model itself paints before it is trained (Ruiz et al. 2023):
// what it makes of a caption now is what it shall still make of it afterwards.
#pragma once

#include <string>

#include "model/pipeline.h"
#include "ops/device.h"
#include "train/encode.h"
#include "train/options.h"

namespace fluxlora::train {

/// Paints what the folders with `generate` lack: generated-0001.png and so on with the caption
/// beside, square at the folder's largest resolution, with the steps and the guidance of [sample],
/// picture i from noise i whatever the seed of the run. So a run that was stopped goes on, the next
/// one paints nothing, and two at once paint the same. The other folders are scanned first. Says
/// whether it was not stopped. Throws Error (bad_input) for a folder whose pictures came from
/// another model or caption, and what scan() and the encoders throw.
bool generate_pictures(Device& device, const ModelFiles& model, const RunOptions& options,
                       const EncodeHooks& hooks);

}  // namespace fluxlora::train
