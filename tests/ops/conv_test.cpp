// SPDX-License-Identifier: Apache-2.0
// Convolutions of channel-last pictures and nearest-neighbour enlargement.
#include "op_case.h"

namespace fluxlora::testing {
namespace {

using Conv = OpTest;

double pixel(const Tensor& x, int64_t b, int64_t i, int64_t j, int64_t c) {
  if (i < 0 || j < 0 || i >= x.dim(1) || j >= x.dim(2)) return 0;
  return x.as<double>()[((b * x.dim(1) + i) * x.dim(2) + j) * x.dim(3) + c];
}

void naive(const std::vector<Tensor>& a, const ConvOptions& o) {
  const Tensor &y = a[0], &x = a[1], &w = a[2];
  double* to = y.as<double>();
  for (int64_t b = 0; b < y.dim(0); ++b)
    for (int64_t i = 0; i < y.dim(1); ++i)
      for (int64_t j = 0; j < y.dim(2); ++j)
        for (int64_t f = 0; f < y.dim(3); ++f, ++to) {
          double sum = a.size() > 3 ? a[3].as<double>()[f] : 0;
          for (int64_t ki = 0; ki < w.dim(1); ++ki)
            for (int64_t kj = 0; kj < w.dim(2); ++kj)
              for (int64_t c = 0; c < x.dim(3); ++c)
                sum += pixel(w, f, ki, kj, c) * pixel(x, b, i * o.stride + ki - o.pad_before,
                                                      j * o.stride + kj - o.pad_before, c);
          *to = sum;
        }
}

struct Sizes {
  int64_t height, width, in, out, kernel;
  ConvOptions options;
};

TEST_F(Conv, IsTheFormula) {
  for (const Sizes& z : {Sizes{7, 9, 5, 6, 3, {1, 1, 1}},  // the common one
                         Sizes{8, 6, 5, 6, 3, {2, 0, 1}},  // downsample: right and bottom only
                         Sizes{9, 7, 3, 4, 3, {2, 1, 1}}, Sizes{5, 4, 8, 3, 1, {1, 0, 0}},  // 1x1
                         Sizes{4, 4, 2, 3, 1, {2, 0, 0}}, Sizes{1, 1, 4, 4, 3, {1, 1, 1}},
                         Sizes{64, 40, 24, 5, 3, {1, 1, 1}}}) {  // more than one block
    const auto side = [&](int64_t n) {
      return (n + z.options.pad_before + z.options.pad_after - z.kernel) / z.options.stride + 1;
    };
    const std::vector<Arg> args{out({2, side(z.height), side(z.width), z.out}),
                                in({2, z.height, z.width, z.in}),
                                in({z.out, z.kernel, z.kernel, z.in}), in({z.out})};
    check_formula(
        args, [&](const auto& a) { ops().conv2d(a[0], a[1], a[2], a[3], z.options); },
        [&](const auto& a) { naive(a, z.options); });
    check_formula(
        {args[0], args[1], args[2]},
        [&](const auto& a) { ops().conv2d(a[0], a[1], a[2], {}, z.options); },
        [&](const auto& a) { naive(a, z.options); });
  }
}

TEST_F(Conv, UpsampleRepeatsPixels) {
  const Tensor x = random({2, 3, 5, 4}), y = poisoned({2, 6, 10, 4});
  ops().upsample2x(y, x);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t i = 0; i < 6; ++i)
      for (int64_t j = 0; j < 10; ++j)
        for (int64_t c = 0; c < 4; ++c)
          ASSERT_EQ(pixel(y, b, i, j, c), pixel(x, b, i / 2, j / 2, c));
}

}  // namespace
}  // namespace fluxlora::testing
