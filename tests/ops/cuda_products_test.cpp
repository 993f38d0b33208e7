// SPDX-License-Identifier: Apache-2.0
// The CUDA backend's products, attention and convolutions against the CPU backend. Skipped without
// a GPU.
#include "cuda_case.h"

namespace fluxlora::testing {
namespace {

using Products = CudaTest;
using Tensors = std::vector<Tensor>;

/// The real widths: whole, in bf16, and against the CPU's f32.
const Tolerances kReal{.with_f32 = false, .strided = false, .reference = DType::f32};

Weight weight_of(const Tensor& values) {
  return {plain_format(values.dtype()), values};
}

// ---- frozen weights -----------------------------------------------------------------------------

struct Linear {
  int64_t B, T, in, out;
};
const std::vector<Linear> kLinears{
    {2, 7, 24, 40}, {1, 33, 160, 480}, {2, 5, 13, 9}, {3, 64, 64, 16}};

TEST_F(Products, Linear) {
  const auto try_size = [&](const Linear& z, const Tolerances& t) {
    const double spread = 1 / std::sqrt(static_cast<double>(z.in));
    agree(
        {out({z.B, z.T, z.out}), in({z.B, z.T, z.in}), in({z.out, z.in}, spread).whole(),
         in({z.out})},
        [](Ops& op, const Tensors& a) { op.linear(a[0], a[1], weight_of(a[2]), a[3]); }, t);
    agree(
        {out({z.B, z.T, z.out}), in({z.B, z.T, z.in}), in({z.out, z.in}, spread).whole()},
        [](Ops& op, const Tensors& a) { op.linear(a[0], a[1], weight_of(a[2]), {}); }, t);
    agree(
        {both({z.B, z.T, z.out}), in({z.B, z.T, z.in}), in({z.out, z.in}, spread).whole(),
         in({z.out})},
        [](Ops& op, const Tensors& a) {
          op.linear(a[0], a[1], weight_of(a[2]), a[3], Grad::accumulate);
        },
        t);
  };
  for (const Linear& z : kLinears) try_size(z, {});
  try_size({1, 4608, 3072, 9216}, kReal);
  agree({out({2, 40}), in({2, 24}), in({40, 24}, 0.2).whole(), in({40})},
        [](Ops& op, const Tensors& a) { op.linear(a[0], a[1], weight_of(a[2]), a[3]); });
}

TEST_F(Products, LinearDx) {
  const auto try_size = [&](const Linear& z, const Tolerances& t) {
    const double spread = 1 / std::sqrt(static_cast<double>(z.out));
    for (const Grad mode : {Grad::overwrite, Grad::accumulate})
      agree(
          {mode == Grad::overwrite ? out({z.B, z.T, z.in}) : both({z.B, z.T, z.in}),
           in({z.B, z.T, z.out}), in({z.out, z.in}, spread).whole()},
          [mode](Ops& op, const Tensors& a) { op.linear_dx(a[0], a[1], weight_of(a[2]), mode); },
          t);
  };
  for (const Linear& z : kLinears) try_size(z, {});
  try_size({1, 4608, 3072, 12288}, kReal);
}

TEST_F(Products, LinearGroup) {
  agree({out({1, 9, 40}), out({1, 17, 40}), in({1, 9, 24}), in({1, 17, 24}),
         in({40, 24}, 0.2).whole(), in({40, 24}, 0.2).whole(), in({40})},
        [](Ops& op, const Tensors& a) {
          const Weight first = weight_of(a[4]), second = weight_of(a[5]);
          const LinearCall calls[] = {{a[0], a[2], &first, a[6]}, {a[1], a[3], &second, {}}};
          op.linear_group(calls);
        });
}

// ---- trained matrices ---------------------------------------------------------------------------

struct Dense {
  int64_t B, T, C, R;
};
const std::vector<Dense> kDenses{{2, 7, 24, 16}, {1, 33, 160, 48}, {2, 5, 13, 3}, {1, 300, 64, 4}};

/// All three products, with and without a factor, with the matrix in its own dtype and as a copy.
void try_dense(const Dense& z, Grad mode,
               const std::function<void(const std::vector<GpuArg>&, const GpuCall&)>& agree) {
  const bool add = mode == Grad::accumulate;
  const auto result = [&](const Shape& s) { return add ? both(s) : out(s); };
  const Shape wide{z.B, z.T, z.C}, narrow{z.B, z.T, z.R}, matrix{z.R, z.C};
  const GpuArg factor = in({1}, 0, 0.5).singles();
  for (const bool copy : {false, true}) {
    const GpuArg a = copy ? in(matrix, 0.2).whole() : in(matrix, 0.2).stats().whole();
    agree({result(narrow), in(wide), a, factor},
          [mode](Ops& op, const Tensors& t) { op.dense(t[0], t[1], t[2], {0.75, t[3]}, mode); });
    agree({result(wide), in(narrow), a},
          [mode](Ops& op, const Tensors& t) { op.dense_dx(t[0], t[1], t[2], {-2.0}, mode); });
  }
  const GpuArg da = result(matrix).stats();
  agree({da, in(narrow), in(wide)},
        [mode](Ops& op, const Tensors& t) { op.dense_dw(t[0], t[1], t[2], {1.5}, mode); });
  agree({da, in(narrow), in(wide), factor},
        [mode](Ops& op, const Tensors& t) { op.dense_dw(t[0], t[1], t[2], {1, t[3]}, mode); });
}

TEST_F(Products, Dense) {
  for (const Grad mode : {Grad::overwrite, Grad::accumulate}) {
    for (const Dense& z : kDenses)
      try_dense(z, mode, [&](const auto& args, const auto& call) { agree(args, call); });
    try_dense({1, 4608, 3072, 16}, mode,
              [&](const auto& args, const auto& call) { agree(args, call, kReal); });
  }
}

TEST_F(Products, AFactorOfZeroAddsNothing) {
  const Shape wide{2, 7, 24}, narrow{2, 7, 16}, matrix{16, 24};
  const GpuArg zero = in({1}, 0, 0).singles();
  const Tolerances exact{.f32 = 0, .bf16 = 0};
  for (const Grad mode : {Grad::overwrite, Grad::accumulate}) {
    const auto result = [&](const Shape& s) { return mode == Grad::accumulate ? both(s) : out(s); };
    agree(
        {result(narrow), in(wide), in(matrix).stats().whole(), zero},
        [mode](Ops& op, const Tensors& t) { op.dense(t[0], t[1], t[2], {1, t[3]}, mode); }, exact);
    agree(
        {result(wide), in(narrow), in(matrix).stats().whole(), zero},
        [mode](Ops& op, const Tensors& t) { op.dense_dx(t[0], t[1], t[2], {1, t[3]}, mode); },
        exact);
    agree(
        {result(matrix).stats(), in(narrow), in(wide), zero},
        [mode](Ops& op, const Tensors& t) { op.dense_dw(t[0], t[1], t[2], {1, t[3]}, mode); },
        exact);
  }
}

// ---- attention ----------------------------------------------------------------------------------

struct Heads {
  int64_t B, S, H, K;
  bool causal = false, bias = false;
};

AttentionOptions options_of(const Heads& z, const Tensor& bias) {
  return {.heads = z.H,
          .scale = 1 / std::sqrt(static_cast<double>(z.K)),
          .causal = z.causal,
          .bias = bias};
}

const std::vector<Heads> kHeads{{2, 37, 3, 32},      {1, 128, 5, 32},
                                {1, 200, 2, 128},    {2, 77, 4, 64, true},
                                {1, 77, 3, 8, true}, {1, 65, 4, 64, false, true},
                                {1, 144, 1, 512}};

TEST_F(Products, Attention) {
  const auto try_size = [&](const Heads& z, const Tolerances& t) {
    const Shape s{z.B, z.S, z.H * z.K};
    std::vector<GpuArg> args{out(s), in(s), in(s), in(s)};
    if (z.bias) args.push_back(in({z.H, z.S, z.S}).whole());
    agree(
        args,
        [&](Ops& op, const Tensors& a) {
          op.attention(a[0], {}, a[1], a[2], a[3], options_of(z, z.bias ? a[4] : Tensor()));
        },
        t);
  };
  for (const Heads& z : kHeads) try_size(z, {});
  try_size({1, 4608, 24, 128}, kReal);
}

TEST_F(Products, AttentionBackward) {
  const auto try_size = [&](const Heads& z, const Tolerances& t) {
    const Shape s{z.B, z.S, z.H * z.K};
    agree(
        {out(s), out(s), out(s), out(s), out({z.B, z.H, z.S}).stats().whole(), in(s), in(s), in(s),
         in(s)},
        [&](Ops& op, const Tensors& a) {
          const AttentionOptions o = options_of(z, {});
          op.attention(a[3], a[4], a[5], a[6], a[7], o);
          op.attention_bwd(a[0], a[1], a[2], a[8], a[3], a[4], a[5], a[6], a[7], o);
        },
        t);
  };
  for (const Heads& z : kHeads)
    if (!z.bias && z.K <= 128) try_size(z, {});
  try_size({1, 4608, 24, 128}, kReal);
}

// ---- convolutions -------------------------------------------------------------------------------

TEST_F(Products, Convolution) {
  struct Size {
    int64_t B, H, W, C, O, kernel;
    ConvOptions options;
  };
  const std::vector<Size> sizes{
      {2, 9, 11, 8, 16, 3, {1, 1, 1}},    {1, 12, 10, 16, 8, 3, {2, 0, 1}},
      {2, 7, 5, 8, 24, 1, {1, 0, 0}},     {1, 16, 16, 3, 32, 3, {1, 1, 1}},
      {1, 8, 8, 32, 3, 3, {1, 1, 1}},     {1, 5, 6, 5, 7, 3, {1, 1, 1}},
      {1, 64, 64, 128, 128, 3, {1, 1, 1}}};
  for (const Size& z : sizes) {
    const int64_t pad = z.options.pad_before + z.options.pad_after;
    const int64_t h = (z.H + pad - z.kernel) / z.options.stride + 1;
    const int64_t w = (z.W + pad - z.kernel) / z.options.stride + 1;
    const double spread = 1 / std::sqrt(static_cast<double>(z.C * z.kernel * z.kernel));
    for (const bool bias : {true, false})
      agree({out({z.B, h, w, z.O}), in({z.B, z.H, z.W, z.C}),
             in({z.O, z.kernel, z.kernel, z.C}, spread), in({z.O})},
            [&](Ops& op, const Tensors& a) {
              op.conv2d(a[0], a[1], a[2], bias ? a[3] : Tensor(), z.options);
            },
            {.strided = false});
  }
}

}  // namespace
}  // namespace fluxlora::testing
