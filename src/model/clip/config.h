// SPDX-License-Identifier: Apache-2.0
// The sizes of a CLIP text model, from text_encoder/config.json or the tensors (flux-facts 5.1, 9).
#pragma once

#include <cstdint>
#include <filesystem>

namespace fluxlora {

struct ClipConfig {
  int64_t width = 768;    ///< C
  int64_t hidden = 3072;  ///< F of the feed-forward
  int64_t layers = 12;
  int64_t heads = 12;  ///< H
  int64_t vocabulary = 49408;
  int64_t positions = 77;  ///< T, the length of every text
  double eps = 1e-5;
  int64_t eos_id = 49407;  ///< 2 means: pool where the id is largest
};

/// Reads PATH/config.json of a transformers CLIPTextModel, or the sizes of the tensors when `path`
/// is a single file (model/source.h). Throws Error (bad_input) naming the file and the key or
/// tensor when something is missing, wrong or not a CLIP text model that we know.
ClipConfig read_clip_config(const std::filesystem::path& path);

}  // namespace fluxlora
