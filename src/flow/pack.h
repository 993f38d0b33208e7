// SPDX-License-Identifier: Apache-2.0
// Latents as tokens: 2x2 patches, channel slowest (flux-facts 1.2).
#pragma once

#include "tensor/tensor.h"

namespace fluxlora::flow {

/// packed (B, (h/2)(w/2), 4C) from channel-last latents (B, h, w, C): packed[b, y (w/2) + x,
/// c 4 + dy 2 + dx] = latents[b, 2y + dy, 2x + dx, c]. Host memory, one dtype, h and w even.
void pack(const Tensor& packed, const Tensor& latents);

/// The inverse.
void unpack(const Tensor& latents, const Tensor& packed);

/// Channel-first (B, C, h, w), as diffusers draws noise and writes latents, to channel-last and
/// back.
void channels_last(const Tensor& last, const Tensor& first);
void channels_first(const Tensor& first, const Tensor& last);

/// Adds shifts (C) to the channels of packed (B, N, 4C) f32.
void shift_channels(const Tensor& packed, const Tensor& shifts);

}  // namespace fluxlora::flow
