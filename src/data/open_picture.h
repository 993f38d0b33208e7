// SPDX-License-Identifier: Apache-2.0
// Inside this room only: a picture file opened by libvips, for those who read its pixels.
#pragma once

#include <filesystem>

#include <vips/vips8>

#include "base/error.h"
#include "data/picture.h"

namespace fluxlora {

/// An opened file whose pixels are not decoded yet.
struct Opened {
  vips::VImage image;
  bool heif = false;
  bool refused_profile = false;
  int orientation = 1;  ///< EXIF, 1 to 8
};

/// Throws the Errors of read_picture that the header shows.
Opened open_picture(const std::filesystem::path& path, const ReadOptions& options);

/// The Error after libvips failed; `what` is what it could not do.
Error unreadable(const std::filesystem::path& path, bool heif, const char* what);

/// The last band of a picture that has alpha, as 0 to 255.
vips::VImage alpha_band(const vips::VImage& image);

}  // namespace fluxlora
