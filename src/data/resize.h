// SPDX-License-Identifier: Apache-2.0
// Crop and resize of pictures, pixels to and from the numbers of the model, contact sheets.
#pragma once

#include <compare>
#include <string>
#include <vector>

#include "data/picture.h"
#include "tensor/tensor.h"

namespace fluxlora {

/// Width and height in pixels.
struct Size {
  int width = 0, height = 0;
  auto operator<=>(const Size&) const = default;
};

/// A point of an upright picture, in pixels from its top left corner.
struct Point {
  double x = 0, y = 0;
};

/// A rectangle of an upright picture, in pixels.
struct Box {
  int x = 0, y = 0, width = 0, height = 0;
  auto operator<=>(const Box&) const = default;
};

/// The largest box with the proportions of `target` in the middle of a picture of size `source`.
Box centre_box(Size source, Size target);

/// By how much `box` is enlarged to become `target`: above 1 pixels are made up.
double enlargement(const Box& box, Size target);

/// `box` of the picture as a picture of size `target`: reduced with Lanczos (3 lobes, antialiased),
/// enlarged with a cubic; on the sRGB values, as other trainers do. The box must lie inside the
/// picture.
Picture resize(const Picture& picture, const Box& box, Size target);

/// The whole picture at size `target` by Catmull and Rom's cubic, antialiased where it is reduced:
/// Pillow's BICUBIC, within a few of 255. What models that look at pictures were trained with.
Picture resize_cubic(const Picture& picture, Size target);

/// centre_box and resize in one.
Picture centre_crop(const Picture& picture, Size target);

/// y = pixel / 127.5 - 1, in [-1, 1]. y (H, W, 3), f32 or f64, contiguous, host memory; the
/// picture's size must be y's. (diffusers VaeImageProcessor.)
void pixels_to_model(const Tensor& y, const Picture& picture);

/// The inverse, rounded to nearest and clamped. x (H, W, 3) f32 or f64, contiguous, host memory.
/// Values that are not finite become 0.
Picture model_to_pixels(const Tensor& x);

struct GridOptions {
  int columns = 4;
  int margin = 8;  ///< white pixels around every picture
  /// One line of text above each row (row_labels[r]); empty for none. Left out where the system has
  /// no font.
  std::vector<std::string> row_labels = {};
};

/// A contact sheet, filled row by row on white. Cells have the size of the largest picture, smaller
/// ones are centred. At least one picture. Before and after: columns = n, pictures = before, after.
Picture grid(const std::vector<Picture>& pictures, const GridOptions& options);

}  // namespace fluxlora
