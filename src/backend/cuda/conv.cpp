// SPDX-License-Identifier: Apache-2.0
// Convolutions: bf16 by cuDNN; f32, and what cuDNN has no plan for, as products of unfolded
// pictures (cuDNN would compute f32 in TF32 or not at all in this layout).
#include <algorithm>

#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/cudnn_graphs.h"
#include "backend/cuda/linear.h"
#include "backend/cuda/operand_kernels.h"
#include "ops/checks.h"

namespace fluxlora::cuda {

class Convolutions {
 public:
  explicit Convolutions(Context& context) : graphs_(context, Slot::conv) {}
  CudnnGraphs& graphs() { return graphs_; }

 private:
  CudnnGraphs graphs_;
};

namespace {

/// Bytes of unfolded rows at once.
constexpr int64_t kUnfoldBytes = int64_t{128} << 20;

/// y = columns wᵀ + bias, some rows of pictures at a time: w (O, kh, kw, C) is already (O, kh kw
/// C).
void conv_by_products(Context& context, Linear& linear, const Tensor& y, const Tensor& x,
                      const Tensor& w, const Tensor& bias, const ConvOptions& options) {
  const int64_t width = w.dim(1) * w.dim(2) * w.dim(3), outputs = y.dim(3);
  const Matrix right{.data = w.data(), .dtype = w.dtype(), .stride = width, .transposed = true};
  const bool pointwise = w.dim(1) == 1 && w.dim(2) == 1 && options.stride == 1 &&
                         options.pad_before == 0 && options.pad_after == 0;
  if (pointwise) {
    const int64_t rows = y.dim(0) * y.dim(1) * y.dim(2);
    return linear.rows_product(y.reshaped({rows, outputs}), x.reshaped({rows, width}), right, bias,
                               1, 0);
  }
  const int64_t row_bytes = y.dim(2) * width * dtype_size(x.dtype());
  const int64_t most = std::clamp<int64_t>(kUnfoldBytes / row_bytes, 1, y.dim(1));
  void* const place = context.scratch(Slot::conv, most * row_bytes);
  for (int64_t item = 0; item < y.dim(0); ++item)
    for (int64_t first = 0; first < y.dim(1); first += most) {
      const int64_t count = std::min(most, y.dim(1) - first), rows = count * y.dim(2);
      const Tensor columns(x.dtype(), {rows, width}, place);
      unfold(context.stream(), columns, x.item(item),
             {x.dim(1), x.dim(2), x.dim(3), w.dim(1), w.dim(2), options.stride, options.pad_before,
              y.dim(2), first, count});
      linear.rows_product(y.item(item).slice(0, first, count).reshaped({rows, outputs}), columns,
                          right, bias, 1, 0);
    }
}

}  // namespace

void CudaOps::conv2d(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias,
                     const ConvOptions& options) {
  checks::conv2d(y, x, w, bias, options);
  if (x.dtype() == DType::bf16) {
    if (!convolutions_) convolutions_ = std::make_shared<Convolutions>(context_);
    if (convolutions_->graphs().conv2d(y, x, w, bias, options)) return;
  }
  conv_by_products(context_, Linear::of(linear_, context_), y, x, w, bias, options);
}

}  // namespace fluxlora::cuda
