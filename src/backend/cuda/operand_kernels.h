// SPDX-License-Identifier: Apache-2.0
// The kernels around products: quantised and scaled operands, scaled results. All on rows views of
// ops/ops.h unless said otherwise; each passes once over memory.
#pragma once

#include <cuda_runtime_api.h>

#include "tensor/tensor.h"

namespace fluxlora::cuda {

/// Quantises each row of x (B, T, C) f32 or bf16 to e4m3: q (B T, C) contiguous, 16-byte aligned,
/// scales (B T): x ≈ q scale. `factors` (C), or null: of x factors[c] instead of x; C is a multiple
/// of 16 then, and wherever B is not 1.
void quantise_rows(cudaStream_t stream, void* q, float* scales, const Tensor& x,
                   const float* factors);

/// out (C, R) = in (R, C) for bytes, both contiguous, R and C multiples of 16.
void transpose_bytes(cudaStream_t stream, void* out, const void* in, int64_t rows, int64_t columns);

/// y (rows, C) contiguous bf16 or f32 = w scales[row], w (rows, C) e4m3.
void dequantise_rows(cudaStream_t stream, const Tensor& y, const Tensor& w, const float* scales);

/// y (+)= product row_scales[row] column_scales[c] + bias[c]; y bf16 rows view, product (rows, C)
/// contiguous bf16; column_scales and bias (bf16) may be null.
void scale_product(cudaStream_t stream, const Tensor& y, const void* product,
                   const float* row_scales, const float* column_scales, const void* bias, bool add);

/// out contiguous, f32 or bf16, = value factor[0] a, a (R, C) f32 with strided rows; factor
/// null: 1.
void scale_matrix(cudaStream_t stream, const Tensor& out, const Tensor& a, double value,
                  const float* factor);

/// y (R, C) f32 with strided rows (+)= value factor[0] x, x contiguous. With factor 0 nothing is
/// added, whatever x is.
void add_scaled_by(cudaStream_t stream, const Tensor& y, const float* x, double value,
                   const float* factor, bool add);

/// y (n) = 1.
void fill_ones(cudaStream_t stream, float* y, int64_t n);

/// columns (B OH' OW, kh kw C) of output rows [first, first + count) of one picture x (H, W, C):
/// what a convolution's product reads. Zero outside the picture. Any dtype.
struct Unfold {
  int64_t height, width, channels;  // of x
  int64_t kernel_height, kernel_width;
  int64_t stride, pad;  // pad: above and to the left
  int64_t out_width, first, count;
};
void unfold(cudaStream_t stream, const Tensor& columns, const Tensor& x, const Unfold& u);

}  // namespace fluxlora::cuda
