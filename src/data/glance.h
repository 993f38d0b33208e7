// SPDX-License-Identifier: Apache-2.0
// A quick look at a picture: a small copy of it, and where libvips thinks that the eye goes.
#pragma once

#include <optional>

#include "data/picture.h"
#include "data/resize.h"

namespace fluxlora {

/// The means of `blocks` equal parts (to a pixel) of the picture, at most as many as it has pixels:
/// of 24 megapixels in some 30 ms.
Picture block_means(const Picture& picture, Size blocks);

/// The picture at another size, some ten times as fast as resize() for a large picture and less
/// exact (blocks of pixels are averaged first): for looking, not for training.
Picture thumbnail(const Picture& picture, Size target);

/// The point that draws attention by libvips' measure (edges, saturation, the colour of skin), in
/// pixels of `picture`; nothing for a picture without contrast. Meant for thumbnails: it blurs by
/// the picture's size, and its cost grows with it.
std::optional<Point> attention_point(const Picture& picture);

}  // namespace fluxlora
