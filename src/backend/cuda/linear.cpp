// SPDX-License-Identifier: Apache-2.0
// Products of CudaOps. A trained matrix is f32: it is converted beside bf16 activations, with its
// scale's factor, which lies in the GPU's memory, folded into it.
#include "backend/cuda/linear.h"

#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/nf4.h"
#include "backend/cuda/operand_kernels.h"
#include "backend/cuda/row_codes.h"
#include "base/error.h"
#include "ops/checks.h"

namespace fluxlora::cuda {
namespace {

/// The stored (R, C) matrix as the right operand; transposed: as (C, R).
Matrix matrix_of(const Tensor& a, bool transposed) {
  return {.data = a.data(), .dtype = a.dtype(), .stride = a.stride(0), .transposed = transposed};
}

}  // namespace

// ---- plain products
// -------------------------------------------------------------------------------

void Linear::rows_product(const Tensor& y, const Tensor& x, const Matrix& right, const Tensor& bias,
                          double alpha, double beta) {
  Product p{.columns = y.dim(-1),
            .inner = x.dim(-1),
            .right = right,
            .out = y.data(),
            .out_dtype = y.dtype(),
            .alpha = alpha,
            .beta = beta,
            .bias = bias.data()};
  p.left = {.data = x.data(), .dtype = x.dtype()};
  if (y.rows_are_uniform() && x.rows_are_uniform()) {
    const Tensor to = y.flat_rows(), from = x.flat_rows();
    p.rows = to.dim(0);
    p.left.stride = from.stride(0);
    p.out_stride = to.stride(0);
  } else {
    p.batch = y.dim(0);
    p.rows = y.dim(1);
    p.left.stride = x.stride(1);
    p.left.batch_stride = x.stride(0);
    p.out_stride = y.stride(1);
    p.out_batch_stride = y.stride(0);
  }
  products_.run(p);
}

Tensor Linear::plain_values(CudaOps& ops, const Weight& w, DType dtype) {
  if (!is_quantised(w.format) && w.values.dtype() == dtype) return w.values;
  const Tensor values(dtype, {w.out(), w.in()},
                      context_.scratch(Slot::operand, w.out() * w.in() * dtype_size(dtype)));
  if (w.format == WeightFormat::nf4)
    dequantise_nf4(context_.stream(), values, w);
  else if (w.scales)
    dequantise_rows(context_.stream(), values, w.values, w.scales.as<const float>());
  else
    ops.cast(values, w.values);
  return values;
}

void Linear::forward(CudaOps& ops, const Tensor& y, const Tensor& x, const Weight& w,
                     const Tensor& bias, bool add) {
  Tensor b = bias;
  if (bias && bias.dtype() != y.dtype()) {
    // Not in the operands' memory, which products of codes use.
    b = Tensor(y.dtype(), {w.out()},
               context_.scratch(Slot::scalars, w.out() * dtype_size(y.dtype())));
    ops.cast(b, bias);
  }
  if (forward_codes(y, x, w, b, add)) return;
  rows_product(y, x, matrix_of(plain_values(ops, w, y.dtype()), true), b, 1, add ? 1 : 0);
}

void Linear::backward(CudaOps& ops, const Tensor& dx, const Tensor& dy, const Weight& w, bool add) {
  if (backward_codes(dx, dy, w, add)) return;
  rows_product(dx, dy, matrix_of(plain_values(ops, w, dx.dtype()), false), {}, 1, add ? 1 : 0);
}

// ---- the operations
// -------------------------------------------------------------------------------

void CudaOps::quantise(const Weight& w, const Tensor& x) {
  checks::quantise(w, x);
  if (w.format == WeightFormat::nf4)
    return quantise_nf4(stream(), w, x, context_.scratch<float>(Slot::operand, w.blocks.size()));
  quantise_rows(stream(), w.values.dtype(), w.values.data(), w.scales.as<float>(), x, nullptr);
}

void CudaOps::linear(const Tensor& y, const Tensor& x, const Weight& w, const Tensor& bias,
                     Grad mode) {
  if (mode == Grad::ignore) return;
  checks::linear(y, x, w, bias);
  Linear::of(linear_, context_).forward(*this, y, x, w, bias, mode == Grad::accumulate);
}

void CudaOps::linear_dx(const Tensor& dx, const Tensor& dy, const Weight& w, Grad mode) {
  if (mode == Grad::ignore) return;
  checks::linear(dy, dx, w, {});
  Linear::of(linear_, context_).backward(*this, dx, dy, w, mode == Grad::accumulate);
}

namespace {

/// A trained matrix beside activations, with the factor of its scale.
struct Trained {
  Matrix matrix;
  double alpha = 1;
};

/// The factor is known on the GPU alone, and with 0 a destination must stay as it is bit for bit.
/// x + 0 would turn -0 into 0; x + -0 is x for every x. So what accumulates is a negative number
/// times a sum: for factor 0 the sum is 0 (all terms are 0 or -0, and it starts at 0), the product
/// is -0.
Trained trained(Context& context, const Tensor& a, DType dtype, const Scale& scale, bool add,
                bool transposed) {
  if (!scale.factor && a.dtype() == dtype) return {matrix_of(a, transposed), scale.value};
  const double sign = scale.factor && add && scale.value > 0 ? -1 : 1;
  const Tensor copy(dtype, {a.dim(0), a.dim(1)},
                    context.scratch(Slot::scalars, a.size() * dtype_size(dtype)));
  scale_matrix(context.stream(), copy, a, sign, scale.factor.as<const float>());
  return {matrix_of(copy, transposed), sign * scale.value};
}

}  // namespace

void CudaOps::dense(const Tensor& y, const Tensor& x, const Tensor& a, const Scale& scale,
                    Grad mode) {
  if (mode == Grad::ignore) return;
  checks::dense("dense", y, x, a);
  const bool add = mode == Grad::accumulate;
  if (scale.value == 0) return add ? void() : fill(y, 0);
  const Trained t = trained(context_, a, x.dtype(), scale, add, true);
  Linear::of(linear_, context_).rows_product(y, x, t.matrix, {}, t.alpha, add ? 1 : 0);
}

void CudaOps::dense_dx(const Tensor& dx, const Tensor& dy, const Tensor& a, const Scale& scale,
                       Grad mode) {
  if (mode == Grad::ignore) return;
  checks::dense("dense_dx", dy, dx, a);
  const bool add = mode == Grad::accumulate;
  if (scale.value == 0) return add ? void() : fill(dx, 0);
  const Trained t = trained(context_, a, dx.dtype(), scale, add, false);
  Linear::of(linear_, context_).rows_product(dx, dy, t.matrix, {}, t.alpha, add ? 1 : 0);
}

void CudaOps::dense_dw(const Tensor& da, const Tensor& dy, const Tensor& x, const Scale& scale,
                       Grad mode) {
  if (mode == Grad::ignore) return;
  checks::dense("dense_dw", dy, x, da);
  const bool add = mode == Grad::accumulate;
  if (scale.value == 0) return add ? void() : fill(da, 0);
  Products& products = Linear::of(linear_, context_).products();
  // With a factor the sum goes to work memory first: it decides on the GPU whether it is added.
  float* const sum =
      scale.factor ? context_.scratch<float>(Slot::operand, da.dim(0) * da.dim(1)) : nullptr;
  Product p{.rows = da.dim(0),
            .columns = da.dim(1),
            .left = {.dtype = dy.dtype(), .transposed = true},
            .right = {.dtype = x.dtype()},
            .out = sum ? sum : da.data(),
            .out_dtype = da.dtype(),
            .out_stride = sum ? da.dim(1) : da.stride(0),
            .alpha = sum ? 1 : scale.value};
  const bool uniform = dy.rows_are_uniform() && x.rows_are_uniform();
  const int64_t items = uniform ? 1 : dy.dim(0);
  for (int64_t i = 0; i < items; ++i) {
    const Tensor g = uniform ? dy.flat_rows() : dy.item(i),
                 in = uniform ? x.flat_rows() : x.item(i);
    p.inner = g.dim(0);
    p.left.data = g.data();
    p.left.stride = g.stride(0);
    p.right.data = in.data();
    p.right.stride = in.stride(0);
    p.beta = i > 0 || (add && !sum) ? 1 : 0;
    products.run(p);
  }
  if (sum)
    add_scaled_by(context_.stream(), da, sum, scale.value, scale.factor.as<const float>(), add);
}

}  // namespace fluxlora::cuda
