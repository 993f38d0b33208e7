// SPDX-License-Identifier: Apache-2.0
// What the products of CudaOps share, and the fp8 path. Operations on rows views: ops/ops.h.
#pragma once

#include <memory>

#include "backend/cuda/products.h"
#include "ops/ops.h"

namespace fluxlora::cuda {

class CudaOps;

/// How products of fp8 operands get their scales. `automatic` takes the first that works: scales
/// inside cuBLASLt, scales by the kernel that reads a unit-scale product, a bf16 product of the
/// dequantised weight. Tests compare the three.
enum class Fp8Path { automatic, library_scales, kernel_scales, dequantised };

class Linear {
 public:
  explicit Linear(Context& context) : context_(context), products_(context) {}

  /// The one of this backend, made on first use.
  static Linear& of(std::shared_ptr<Linear>& slot, Context& context) {
    if (!slot) slot = std::make_shared<Linear>(context);
    return *slot;
  }

  Products& products() { return products_; }
  void use_fp8_path(Fp8Path path) { path_ = path; }

  /// The operations of ops/ops.h; `ops` converts operands of another element type.
  void forward(CudaOps& ops, const Tensor& y, const Tensor& x, const Weight& w, const Tensor& bias);
  void backward(CudaOps& ops, const Tensor& dx, const Tensor& dy, const Weight& w, bool add);

  /// y (rows, N) = alpha x (rows, K) right (K, N) + beta y + bias, over rows views.
  void rows_product(const Tensor& y, const Tensor& x, const Matrix& right, const Tensor& bias,
                    double alpha, double beta);

 private:
  struct Fp8Rows;  // activations quantised a row at a time

  bool forward_fp8(const Tensor& y, const Tensor& x, const Weight& w, const Tensor& bias);
  bool backward_fp8(const Tensor& dx, const Tensor& dy, const Weight& w, bool add);
  bool fp8_product(const Tensor& y, const Fp8Rows& x, const Matrix& right,
                   const float* column_scales, const Tensor& bias, bool add);
  bool fits_fp8(const Tensor& y, const Tensor& x, const Weight& w) const;
  /// The weight in the element type of activations, in work memory unless it has it already.
  Tensor plain_values(CudaOps& ops, const Weight& w, DType dtype);

  Context& context_;
  Products products_;
  Fp8Path path_ = Fp8Path::automatic;
};

}  // namespace fluxlora::cuda
