// SPDX-License-Identifier: Apache-2.0
// The kernels around NF4 weights (tensor/nf4.h).
#pragma once

#include <cuda_runtime_api.h>

#include "tensor/weight.h"

namespace fluxlora::cuda {

/// w = x (out, in) f32 or bf16, contiguous, as the host quantises (tensor/quantise.h). `largest`:
/// work memory for the blocks' largest magnitudes, w.blocks.size() f32.
void quantise_nf4(cudaStream_t stream, const Weight& w, const Tensor& x, float* largest);

/// y (out, in) f32 or bf16, contiguous, = w.
void dequantise_nf4(cudaStream_t stream, const Tensor& y, const Weight& w);

/// w as e4m3 rows: codes (out, in), or turned round (in, out), 16-byte aligned; scales (out). The
/// factor of a row is the largest magnitude of its blocks / 448, so that no number is above the
/// range. out and in are multiples of 16.
void dequantise_nf4_to_fp8(cudaStream_t stream, void* codes, float* scales, const Weight& w,
                           bool turn);

}  // namespace fluxlora::cuda
