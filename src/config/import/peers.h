// SPDX-License-Identifier: Apache-2.0
// Inside this room only: one function for each peer.
#pragma once

#include <filesystem>

#include "config/import/foreign.h"
#include "config/import/import.h"

namespace fluxlora::config {

/// kohya's flux_train_network.py: the options of its command line, those of --config_file below
/// them, the data set of --dataset_config. `folder`: see Translator.
Imported import_kohya(const ForeignList& arguments, const std::filesystem::path& folder);
/// A data set file of kohya's alone: everything else stays ours.
Imported import_kohya_dataset(const std::filesystem::path& path);

/// A training configuration of ai-toolkit, its first process.
Imported import_ai_toolkit(const std::filesystem::path& path);

/// diffusers' train_dreambooth_lora_flux.py, plain or advanced.
Imported import_diffusers(const ForeignList& arguments, const std::filesystem::path& folder);

}  // namespace fluxlora::config
