// SPDX-License-Identifier: Apache-2.0
// cuBLASLt is column-major: a row-major matrix is its transpose there. So out' = right' left', with
// what is stored as (columns, inner) read transposed.
#include "backend/cuda/products.h"

#include <algorithm>
#include <string>

#include <cublasLt.h>

#include "backend/cuda/libraries.h"
#include "base/error.h"

namespace fluxlora::cuda {
namespace {

/// What cuBLAS recommends for Hopper; products with few rows and columns split their sums into it.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

void lt_check(cublasStatus_t status, const char* what) {
  CHECK(status == CUBLAS_STATUS_SUCCESS,
        std::string(what) + ": " + cublasLtGetStatusString(status));
}

cudaDataType_t type_of(DType dtype) {
  if (dtype == DType::bf16) return CUDA_R_16BF;
  if (dtype == DType::f8_e4m3) return CUDA_R_8F_E4M3;
  if (dtype == DType::i8) return CUDA_R_8I;
  if (dtype == DType::i32) return CUDA_R_32I;
  CHECK(dtype == DType::f32, "products are of f32, bf16, fp8 and int8");
  return CUDA_R_32F;
}

/// The largest power of two, 256 at most, that divides the address.
uint32_t alignment(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data) | 256;
  return static_cast<uint32_t>(address & (~address + 1));
}

template <typename T>
void set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, T value) {
  lt_check(cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof value), "attribute");
}

template <typename T>
void set(cublasLtMatmulPreference_t desc, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  lt_check(cublasLtMatmulPreferenceSetAttribute(desc, attribute, &value, sizeof value),
           "preference");
}

/// `rows` and `columns` as stored in row-major order.
cublasLtMatrixLayout_t layout(DType dtype, int64_t rows, int64_t columns, int64_t stride,
                              int64_t batch, int64_t batch_stride) {
  cublasLtMatrixLayout_t made = nullptr;
  lt_check(cublasLtMatrixLayoutCreate(&made, type_of(dtype), static_cast<uint64_t>(columns),
                                      static_cast<uint64_t>(rows), stride),
           "layout");
  if (batch > 1) {
    const auto count = static_cast<int32_t>(batch);
    lt_check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                              sizeof count),
             "layout");
    lt_check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                              &batch_stride, sizeof batch_stride),
             "layout");
  }
  return made;
}

cublasLtMatrixLayout_t layout(const Matrix& m, int64_t rows, int64_t columns, int64_t batch) {
  if (m.transposed) std::swap(rows, columns);
  return layout(m.dtype, rows, columns, m.stride, batch, m.batch_stride);
}

}  // namespace

struct Products::Plan {
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t left = nullptr, right = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  bool exists = false;

  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    for (cublasLtMatrixLayout_t l : {left, right, out})
      if (l) cublasLtMatrixLayoutDestroy(l);
    if (desc) cublasLtMatmulDescDestroy(desc);
  }

  void describe(const Product& p) {
    if (p.out_dtype == DType::i32)
      lt_check(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32I, CUDA_R_32I), "product");
    else
      lt_check(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "product");
    const auto op = [](const Matrix& m) { return m.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    set(desc, CUBLASLT_MATMUL_DESC_TRANSA, static_cast<int32_t>(op(p.right)));
    set(desc, CUBLASLT_MATMUL_DESC_TRANSB, static_cast<int32_t>(op(p.left)));
    if (p.bias) {
      set(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(CUBLASLT_EPILOGUE_BIAS));
      set(desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(type_of(p.out_dtype)));
      set(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    }
    if (p.left.dtype == DType::f8_e4m3)
      set(desc, CUBLASLT_MATMUL_DESC_FAST_ACCUM, static_cast<int8_t>(1));
    if (p.left_scales) {
      const auto mode = static_cast<int32_t>(CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
      set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode);
      set(desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode);
      set_pointers(p);
    }
    left = layout(p.left, p.rows, p.inner, p.batch);
    right = layout(p.right, p.inner, p.columns, p.batch);
    out = layout(p.out_dtype, p.rows, p.columns, p.out_stride, p.batch, p.out_batch_stride);
  }

  /// What differs from call to call.
  void set_pointers(const Product& p) const {
    if (p.bias) set(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    if (!p.left_scales) return;
    set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.right_scales);
    set(desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.left_scales);
  }

  void choose(cublasLtHandle_t handle, const Product& p) {
    cublasLtMatmulPreference_t wish = nullptr;
    lt_check(cublasLtMatmulPreferenceCreate(&wish), "preference");
    set(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspaceBytes));
    // Partial sums stay f32; sums in the output's type would round once more for each part.
    set(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(p.right.data));
    set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(p.left.data));
    set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(p.out));
    set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(p.out));
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, desc, right, left, out,
                                                                 out, wish, 1, &result, &found);
    cublasLtMatmulPreferenceDestroy(wish);
    exists = status == CUBLAS_STATUS_SUCCESS && found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    if (exists) algorithm = result.algo;
  }
};

Products::Products(Context& context) : context_(context) {
  open_cublaslt();
  const cublasStatus_t made = cublasLtCreate(&handle_);
  if (made != CUBLAS_STATUS_SUCCESS)
    throw environment_error("cuBLAS",
                            std::string("does not start: ") + cublasLtGetStatusString(made),
                            "fluxlora doctor says what is missing");
  workspace_ = context.scratch(Slot::product, static_cast<int64_t>(kWorkspaceBytes));
}

Products::~Products() {
  plans_.clear();
  if (handle_) cublasLtDestroy(handle_);
}

Products::Plan& Products::plan(const Product& p) {
  const auto dtypes = (static_cast<int64_t>(p.left.dtype) << 16) |
                      (static_cast<int64_t>(p.right.dtype) << 8) |
                      static_cast<int64_t>(p.out_dtype);
  const Key key{p.rows,
                p.columns,
                p.inner,
                p.batch,
                p.left.stride,
                p.left.batch_stride,
                p.left.transposed,
                p.right.stride,
                p.right.batch_stride,
                p.right.transposed,
                p.out_stride,
                p.out_batch_stride,
                dtypes,
                p.bias != nullptr,
                p.left_scales != nullptr,
                alignment(p.left.data),
                alignment(p.right.data),
                alignment(p.out),
                p.bias ? alignment(p.bias) : 0,
                p.left_scales ? std::min(alignment(p.left_scales), alignment(p.right_scales)) : 0};
  const auto found = plans_.find(key);
  if (found != plans_.end()) return found->second;
  Plan& plan = plans_[key];
  plan.describe(p);
  plan.choose(handle_, p);
  return plan;
}

bool Products::try_run(const Product& p) {
  if (p.rows == 0 || p.columns == 0 || p.batch == 0) return true;
  CHECK((p.left_scales == nullptr) == (p.right_scales == nullptr), "scales of one operand alone");
  Plan& plan = this->plan(p);
  if (!plan.exists) return false;
  plan.set_pointers(p);
  const auto alpha = static_cast<float>(p.alpha), beta = static_cast<float>(p.beta);
  const auto whole_alpha = static_cast<int32_t>(p.alpha), whole_beta = static_cast<int32_t>(p.beta);
  const bool whole = p.out_dtype == DType::i32;
  const auto* const a = whole ? static_cast<const void*>(&whole_alpha) : &alpha;
  const auto* const b = whole ? static_cast<const void*>(&whole_beta) : &beta;
  const cublasStatus_t status = cublasLtMatmul(
      handle_, plan.desc, a, p.right.data, plan.right, p.left.data, plan.left, b, p.out, plan.out,
      p.out, plan.out, &plan.algorithm, workspace_, kWorkspaceBytes, context_.stream());
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) {
    plan.exists = false;
    return false;
  }
  lt_check(status, "product");
  return true;
}

void Products::run(const Product& p) {
  CHECK(try_run(p), "cuBLASLt has no product of (" + std::to_string(p.rows) + ", " +
                        std::to_string(p.inner) + ") and (" + std::to_string(p.inner) + ", " +
                        std::to_string(p.columns) + ")");
}

}  // namespace fluxlora::cuda
