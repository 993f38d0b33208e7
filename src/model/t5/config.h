// SPDX-License-Identifier: Apache-2.0
// The sizes of a T5 encoder, from text_encoder_2/config.json or the tensors (flux-facts 5.2, 9).
#pragma once

#include <cstdint>
#include <filesystem>

namespace fluxlora {

struct T5Config {
  int64_t width = 4096;     ///< C
  int64_t head_width = 64;  ///< K; H K need not be C
  int64_t heads = 64;       ///< H
  int64_t hidden = 10240;   ///< F of the feed-forward
  int64_t layers = 24;
  int64_t vocabulary = 32128;
  int64_t buckets = 32;        ///< of relative positions, both directions together
  int64_t max_distance = 128;  ///< from here on all positions share a bucket
  double eps = 1e-6;
};

/// Reads PATH/config.json of a transformers T5EncoderModel, or the sizes of the tensors when `path`
/// is a single file (model/source.h). Throws Error (bad_input) naming the file and the key or
/// tensor when something is missing, wrong or not a T5 of version 1.1.
T5Config read_t5_config(const std::filesystem::path& path);

}  // namespace fluxlora
