// SPDX-License-Identifier: Apache-2.0
// Inside this room only: libvips started once, and our pictures as its images.
#pragma once

#include "data/picture.h"

namespace vips {
class VImage;
}

namespace fluxlora {

/// Starts libvips at the first call: one thread per picture (callers run pictures side by side), no
/// cache of operations, no loaders that are unsafe with foreign files, nothing on stderr.
void start_vips();

/// Whether a decoder refused a colour profile in this thread since the last call.
bool take_refused_profile();

/// A view of the picture's pixels, alive only as long as the picture.
vips::VImage as_vips(const Picture& picture);

/// Evaluates an image of three 8-bit bands.
Picture from_vips(const vips::VImage& image);

}  // namespace fluxlora
