// SPDX-License-Identifier: Apache-2.0
// Fused layers and their parts: a LoRA of q, k and v as one of the whole qkv, and back
// (flux-facts 3.3).
#pragma once

#include "export/lora_modules.h"

namespace fluxlora::exporting {

/// The module with copies of all matrices; `name` says what follows.
LoraModule copy_of(const LoraModule& module);
/// Rows [row0, row0 + rows) and columns [column0, column0 + columns) as a matrix of its own.
HostTensor block_of(const Tensor& matrix, int64_t row0, int64_t rows, int64_t column0,
                    int64_t columns);

/// One module for each of diffusers' parts; the same change exactly. A B that is block-diagonal
/// gives every part its own rows of A, any other gives all parts the same A. Parts whose B would be
/// zero while another's is not are left out. Throws Error (bad_input) for a LoKr whose blocks lie
/// across the parts.
LoraModules split(const LoraModules& fused);

/// Whole fused layers; the same change exactly. Parts with one A and one scale keep the rank;
/// others are stacked: the rank is the sum, B block-diagonal, alpha so that the scale is the parts'
/// own (where they differ, it is multiplied into B). Rows of absent parts are zero. Throws Error
/// (bad_input) for parts of a LoKr, and for a DoRA without all parts.
LoraModules fuse(const LoraModules& parts);

/// q, k, v of single blocks in one, proj_mlp apart; else as fuse().
LoraModules fuse_attention(const LoraModules& parts);

}  // namespace fluxlora::exporting
