// SPDX-License-Identifier: Apache-2.0
// The kernels around products: scaled operands and results, unfolded pictures. Each passes once
// over memory.
#pragma once

#include <cuda_runtime_api.h>

#include "tensor/tensor.h"

namespace fluxlora::cuda {

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
