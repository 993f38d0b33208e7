// SPDX-License-Identifier: Apache-2.0
// Products of 8-bit operands: fp8, int8, and NF4 by way of fp8. Activations are quantised a row at
// a time, like the weight.
#include <algorithm>

#include "backend/cuda/linear.h"
#include "backend/cuda/nf4.h"
#include "backend/cuda/operand_kernels.h"
#include "backend/cuda/row_codes.h"
#include "base/error.h"

namespace fluxlora::cuda {
namespace {

/// What a product without its factors may take, so that a wide layer's i32 sums need no room beside
/// the result's: rows are taken in chunks.
constexpr int64_t kProductBytes = int64_t{32} << 20;
/// Rows of chunks are a multiple of this: cuBLASLt's int8 kernels want more than 16.
constexpr int64_t kChunkStep = 32;

/// Pieces of one work memory, 256-byte aligned.
class Pieces {
 public:
  int64_t add(int64_t bytes) {
    const int64_t at = total_;
    total_ += (bytes + 255) / 256 * 256;
    return at;
  }
  int64_t total() const { return total_; }

 private:
  int64_t total_ = 0;
};

void* at(void* base, int64_t offset) {
  return static_cast<char*>(base) + offset;
}

int64_t whole_steps(int64_t rows) {
  return (rows + kChunkStep - 1) / kChunkStep * kChunkStep;
}

/// All chunks have the same rows, so that they are one product again and again: the last reaches
/// beyond the end, together by less than a step a chunk.
struct Chunks {
  int64_t most = 0, count = 0, rows = 0;

  Chunks(int64_t all, int64_t bytes_a_row) {
    most = std::max(kProductBytes / bytes_a_row, kChunkStep);
    count = (all + most - 1) / most;
    rows = whole_steps((all + count - 1) / count);
  }
};

int64_t row_count(const Tensor& x) {
  return x.dim(-1) == 0 ? 0 : x.size() / x.dim(-1);
}

DType sums_of(DType code) {
  return code == DType::i8 ? DType::i32 : DType::bf16;
}

}  // namespace

struct Linear::WeightCodes {
  Tensor values;        // (out, in) e4m3 or i8; (in, out) when turned
  const float* scales;  // (out)
  bool turned = false;
};

/// y (+)= x rightᵀ times factors + bias, where x is to be quantised.
struct Linear::CodeCall {
  Tensor y, x;
  const float* x_factors;  // (inner): x times these is what is quantised; or null
  Tensor right;            // (columns, inner) codes, turned round first where `turn` is set
  bool turn;
  const float* columns;  // factors (columns), or null for 1
  Tensor bias;
  bool add;
  // Set on the way, in work memory:
  void* codes = nullptr;    // (rows, inner)
  float* scales = nullptr;  // (rows)
  void* product = nullptr;  // a chunk of it, without factors
};

/// Nothing where a product of codes does not fit. `turn`: turned round where that costs nothing.
std::optional<Linear::WeightCodes> Linear::codes_of(const Tensor& y, const Tensor& x,
                                                    const Weight& w, bool turn) {
  const bool fits = is_quantised(w.format) && path_ != CodePath::dequantised &&
                    x.dtype() == DType::bf16 && y.dtype() == DType::bf16 && w.in() % 16 == 0 &&
                    w.out() % 16 == 0 && w.values.contiguous() &&
                    reinterpret_cast<uintptr_t>(w.values.data()) % 16 == 0 && row_count(y) > 0;
  if (!fits || (w.format != WeightFormat::int8 && context_.capability() < 89)) return {};
  if (w.format != WeightFormat::nf4) return WeightCodes{w.values, w.scales.as<const float>()};
  Pieces pieces;
  const int64_t values = pieces.add(w.out() * w.in()), scales = pieces.add(w.out() * 4);
  void* const base = context_.scratch(Slot::weight, pieces.total());
  auto* const factors = static_cast<float*>(at(base, scales));
  dequantise_nf4_to_fp8(context_.stream(), at(base, values), factors, w, turn);
  const int64_t rows = turn ? w.in() : w.out(), columns = turn ? w.out() : w.in();
  return WeightCodes{Tensor(DType::f8_e4m3, {rows, columns}, at(base, values)), factors, turn};
}

bool Linear::forward_codes(const Tensor& y, const Tensor& x, const Weight& w, const Tensor& bias,
                           bool add) {
  const auto codes = codes_of(y, x, w, false);
  return codes && code_product({.y = y,
                                .x = x,
                                .x_factors = nullptr,
                                .right = codes->values,
                                .turn = false,
                                .columns = codes->scales,
                                .bias = bias,
                                .add = add});
}

/// Products of 8 bits want both operands along the contraction, so W is turned round; its factors
/// lie on the contraction and are folded into dy before that is quantised.
bool Linear::backward_codes(const Tensor& dx, const Tensor& dy, const Weight& w, bool add) {
  const auto codes = codes_of(dx, dy, w, true);
  return codes && code_product({.y = dx,
                                .x = dy,
                                .x_factors = codes->scales,
                                .right = codes->values,
                                .turn = !codes->turned,
                                .columns = nullptr,
                                .bias = {},
                                .add = add});
}

bool Linear::code_product(const CodeCall& given) {
  CodeCall call = given;
  const cudaStream_t stream = context_.stream();
  const DType code = call.right.dtype();
  const int64_t rows = row_count(call.x), inner = call.x.dim(-1), columns = call.y.dim(-1);
  const int64_t row_bytes = columns * dtype_size(sums_of(code));
  const Chunks chunks(rows, row_bytes);
  Pieces pieces;
  const int64_t q = pieces.add((rows + chunks.count * kChunkStep) * inner);
  const int64_t scales = pieces.add(rows * 4);
  const int64_t product = pieces.add(whole_steps(std::min(rows, chunks.most)) * row_bytes);
  const int64_t turned = pieces.add(call.turn ? columns * inner : 0);
  const int64_t ones = pieces.add(call.columns ? 0 : columns * 4);
  void* const base = context_.scratch(Slot::operand, pieces.total());
  call.codes = at(base, q);
  call.scales = static_cast<float*>(at(base, scales));
  call.product = at(base, product);
  quantise_rows(stream, code, call.codes, call.scales, call.x, call.x_factors);
  if (call.turn) {
    transpose_bytes(stream, at(base, turned), call.right.data(), inner, columns);
    call.right = Tensor(code, {columns, inner}, at(base, turned));
  }
  if (code == DType::i8 || path_ == CodePath::kernel_scales) return chunked_product(call, 0, rows);
  if (!call.columns) {
    auto* const unit = static_cast<float*>(at(base, ones));
    fill_ones(stream, unit, columns);
    call.columns = unit;
  }
  // Item by item where rows have no single stride.
  const bool uniform = call.y.rows_are_uniform();
  const int64_t items = uniform ? 1 : call.y.dim(0), each = rows / items;
  for (int64_t i = 0; i < items; ++i) {
    if (library_product(call, uniform ? call.y.flat_rows() : call.y.item(i), i * each)) continue;
    CHECK(path_ != CodePath::library_scales, "cuBLASLt has no product with scales of rows");
    const bool found = chunked_product(call, i * each, each);
    CHECK(found || i == 0, "cuBLASLt has a product for one item and not for the next");
    if (!found) return false;
  }
  return true;
}

/// With the factors inside the product: `to` are the rows of y from `first` on.
bool Linear::library_product(const CodeCall& call, const Tensor& to, int64_t first) {
  const int64_t inner = call.x.dim(-1);
  const DType code = call.right.dtype();
  return products_.try_run(
      {.rows = to.dim(0),
       .columns = to.dim(1),
       .inner = inner,
       .left = {.data = at(call.codes, first * inner), .dtype = code, .stride = inner},
       .right = {.data = call.right.data(), .dtype = code, .stride = inner, .transposed = true},
       .out = to.data(),
       .out_dtype = DType::bf16,
       .out_stride = to.stride(0),
       .beta = call.add ? 1.0 : 0.0,
       .bias = call.bias.data(),
       .left_scales = call.scales + first,
       .right_scales = call.columns});
}

/// A unit-scale product, whose factors the kernel applies that reads it: rows [first, first +
/// count) of y.
bool Linear::chunked_product(const CodeCall& call, int64_t first, int64_t count) {
  const DType code = call.right.dtype(), sums = sums_of(code);
  const int64_t inner = call.x.dim(-1), columns = call.y.dim(-1);
  const Chunks chunks(count, columns * dtype_size(sums));
  for (int64_t done = 0; done < count; done += chunks.rows) {
    const int64_t row = first + done;
    const bool found = products_.try_run(
        {.rows = chunks.rows,
         .columns = columns,
         .inner = inner,
         .left = {.data = at(call.codes, row * inner), .dtype = code, .stride = inner},
         .right = {.data = call.right.data(), .dtype = code, .stride = inner, .transposed = true},
         .out = call.product,
         .out_dtype = sums,
         .out_stride = columns});
    CHECK(found || done == 0, "cuBLASLt has a product for one chunk and not for the next");
    if (!found) return false;
    scale_product(context_.stream(), call.y, row, std::min(chunks.rows, count - done),
                  {call.product, sums, call.scales + row, call.columns, call.bias.data()},
                  call.add);
  }
  return true;
}

}  // namespace fluxlora::cuda
