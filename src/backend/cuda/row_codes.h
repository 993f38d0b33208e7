// SPDX-License-Identifier: Apache-2.0
// The kernels around products of 8-bit operands with a factor a row: e4m3 or int8. All on rows
// views of ops/ops.h unless said otherwise; each passes once over memory.
#pragma once

#include <cuda_runtime_api.h>

#include "tensor/tensor.h"

namespace fluxlora::cuda {

/// Quantises each row of x (B, T, C) f32 or bf16 to `code` (f8_e4m3 or i8): q (B T, C) contiguous,
/// 16-byte aligned, scales (B T): x ≈ q scale. `factors` (C), or null: of x factors[c] instead of
/// x; C is a multiple of 16 then, and wherever B is not 1.
void quantise_rows(cudaStream_t stream, DType code, void* q, float* scales, const Tensor& x,
                   const float* factors);

/// out (C, R) = in (R, C) for bytes, both contiguous, R and C multiples of 16.
void transpose_bytes(cudaStream_t stream, void* out, const void* in, int64_t rows, int64_t columns);

/// y (R, C) f32 or bf16 = w (R, C) e4m3 or i8 times a factor a row; both contiguous, C a multiple
/// of 4.
void dequantise_rows(cudaStream_t stream, const Tensor& y, const Tensor& w, const float* scales);

/// A product of codes, without their factors yet.
struct CodeProduct {
  const void* values;    // (count, C) bf16 or i32, contiguous, 16-byte aligned
  DType dtype;           // of values
  const float* rows;     // (count)
  const float* columns;  // (C), or null for 1
  const void* bias;      // (C) bf16, or null
};

/// y (+)= product rows columns + bias in rows [first, first + count) of y's (B, T, C) bf16, counted
/// over all items.
void scale_product(cudaStream_t stream, const Tensor& y, int64_t first, int64_t count,
                   const CodeProduct& product, bool add);

}  // namespace fluxlora::cuda
