// SPDX-License-Identifier: Apache-2.0
// What the products of CudaOps share, and the products of 8-bit operands. Operations on rows views:
// ops/ops.h.
#pragma once

#include <memory>
#include <optional>

#include "backend/cuda/products.h"
#include "ops/ops.h"

namespace fluxlora::cuda {

class CudaOps;

/// How products of 8-bit operands get their scales. `automatic` takes the first that works: scales
/// inside cuBLASLt (fp8 alone), scales by the kernel that reads a unit-scale product, a product of
/// the dequantised weight in the type of activations. Tests compare the three.
enum class CodePath { automatic, library_scales, kernel_scales, dequantised };

class Linear {
 public:
  explicit Linear(Context& context) : context_(context), products_(context) {}

  /// The one of this backend, made on first use.
  static Linear& of(std::shared_ptr<Linear>& slot, Context& context) {
    if (!slot) slot = std::make_shared<Linear>(context);
    return *slot;
  }

  Products& products() { return products_; }
  void use_path(CodePath path) { path_ = path; }

  /// The operations of ops/ops.h; `ops` converts operands of another element type.
  void forward(CudaOps& ops, const Tensor& y, const Tensor& x, const Weight& w, const Tensor& bias,
               bool add);
  void backward(CudaOps& ops, const Tensor& dx, const Tensor& dy, const Weight& w, bool add);

  /// y (rows, N) = alpha x (rows, K) right (K, N) + beta y + bias, over rows views.
  void rows_product(const Tensor& y, const Tensor& x, const Matrix& right, const Tensor& bias,
                    double alpha, double beta);

 private:
  struct WeightCodes;  // a weight as 8-bit rows
  struct CodeCall;     // a product of 8-bit rows

  // linear_codes.cpp
  std::optional<WeightCodes> codes_of(const Tensor& y, const Tensor& x, const Weight& w, bool turn);
  bool forward_codes(const Tensor& y, const Tensor& x, const Weight& w, const Tensor& bias,
                     bool add);
  bool backward_codes(const Tensor& dx, const Tensor& dy, const Weight& w, bool add);
  bool code_product(const CodeCall& call);
  bool library_product(const CodeCall& call, const Tensor& to, int64_t first);
  bool chunked_product(const CodeCall& call, int64_t first, int64_t count);

  /// The weight in the element type of activations, in work memory unless it has it already.
  Tensor plain_values(CudaOps& ops, const Weight& w, DType dtype);

  Context& context_;
  Products products_;
  CodePath path_ = CodePath::automatic;
};

}  // namespace fluxlora::cuda
