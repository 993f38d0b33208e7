// SPDX-License-Identifier: Apache-2.0
// Matrix products by cuBLASLt, row-major, a plan for each shape.
#pragma once

#include <array>
#include <map>

#include "backend/cuda/context.h"
#include "tensor/tensor.h"

struct cublasLtContext;

namespace fluxlora::cuda {

/// One operand: `stride` elements between stored rows; transposed: what is stored is the transpose.
struct Matrix {
  const void* data = nullptr;
  DType dtype = DType::f32;
  int64_t stride = 0;
  bool transposed = false;
  int64_t batch_stride = 0;  ///< 0: the same for all of a batch
};

/// out (rows, columns) = alpha left (rows, inner) right (inner, columns) + beta out + bias. Sums
/// are in f32, never in TF32; of int8 operands exactly, in i32, which out is then, with whole alpha
/// and beta. `batch` such products at once.
struct Product {
  int64_t rows = 0, columns = 0, inner = 0, batch = 1;
  Matrix left = {}, right = {};
  void* out = nullptr;
  DType out_dtype = DType::f32;
  int64_t out_stride = 0, out_batch_stride = 0;
  double alpha = 1, beta = 0;
  const void* bias = nullptr;  ///< (columns) of out_dtype, or null
  /// For fp8: a factor a row of left and a column of right, (rows) and (columns); null for 1.
  const float* left_scales = nullptr;
  const float* right_scales = nullptr;
};

/// The algorithm is the first of cuBLASLt's heuristics with a fixed workspace: a function of shape,
/// GPU and version, so that the same call gives the same bytes.
class Products {
 public:
  explicit Products(Context& context);
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  /// Launches the product. False: cuBLASLt has none for this, and nothing was launched.
  bool try_run(const Product& product);
  /// The same where there must be one.
  void run(const Product& product);

 private:
  struct Plan;
  using Key = std::array<int64_t, 20>;

  Plan& plan(const Product& product);

  Context& context_;
  cublasLtContext* handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Key, Plan> plans_;
};

}  // namespace fluxlora::cuda
