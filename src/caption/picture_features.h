// SPDX-License-Identifier: Apache-2.0
// What a model of pictures that the user brings, such as DINOv2 or CLIP's vision part, sees in one.
#pragma once

#include <filesystem>
#include <vector>

#include "caption/onnx_session.h"
#include "data/resize.h"

namespace fluxlora::caption {

/// How such a model wants its pictures: the shorter side resized by a cubic, the middle cut out,
/// each channel of [0, 1] less its mean, by its deviation.
struct PictureInput {
  int shorter_side = 224;
  Size crop{224, 224};
  double mean[3] = {0, 0, 0}, deviation[3] = {1, 1, 1};
};

/// Reads transformers' preprocessor_config.json: `size`, `crop_size`, `image_mean`, `image_std`.
/// Throws Error (bad_input) naming the file.
PictureInput read_picture_input(const std::filesystem::path& config);

class PictureFeatures {
 public:
  /// An ONNX file with one input (N, 3, H, W) and preprocessor_config.json beside it or one folder
  /// up, as transformers' exports have them. Throws the Errors of OnnxSession and
  /// read_picture_input(), and bad_input for a model of other inputs or outputs.
  explicit PictureFeatures(const std::filesystem::path& model);

  /// The model's vector of the picture, of length 1: the output image_embeds or pooler_output, else
  /// the first place of last_hidden_state, else that of the only output.
  std::vector<float> of(const Picture& picture);

 private:
  PictureInput input_;
  OnnxSession session_;
  std::string output_;
};

/// The cosine of two vectors of length 1.
double cosine(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace fluxlora::caption
