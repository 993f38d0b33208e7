// SPDX-License-Identifier: Apache-2.0
// Which picture formats can be read on this machine.
#pragma once

#include <string>
#include <vector>

namespace fluxlora {

struct PictureFormat {
  std::string name;  ///< "JPEG"
  bool readable = false;
};

/// The formats that read_picture knows, common ones first. It depends on how the installed libvips
/// was built, and for AVIF and HEIC on the decoders that libheif finds. Throws Error (environment)
/// when libvips cannot be started.
std::vector<PictureFormat> picture_formats();

}  // namespace fluxlora
