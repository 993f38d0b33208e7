// SPDX-License-Identifier: Apache-2.0
// Inside this room only: the pictures of a kohya configuration.
#pragma once

#include "config/import/translator.h"

namespace fluxlora::config {

/// dataset.folders, dataset.resolution, train.caption_dropout and subject.trigger, from the file of
/// --dataset_config or from --train_data_dir with its folders "10_name". `all`: the training's
/// options. kohya puts no word into captions, so a folder's own trigger is empty.
void set_kohya_folders(Translator& to, const ForeignList& all, const std::filesystem::path& folder);

}  // namespace fluxlora::config
