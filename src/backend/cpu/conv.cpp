// SPDX-License-Identifier: Apache-2.0
// Convolution as a matrix product: each block of output positions gathers its patches into the
// thread's scratch (im2col) and multiplies them by the weight; 1x1 needs no gathering.
#include <cstring>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/rows.h"
#include "ops/checks.h"

namespace fluxlora {
namespace {

/// Elements of a block of gathered patches.
constexpr int64_t kBlockElements = 1 << 17;

template <typename T>
struct Conv {
  const T *x, *w, *bias;
  T* y;
  int64_t height, width, channels;              // of x
  int64_t out_height, out_width, out_channels;  // of y
  int64_t kernel_h, kernel_w;
  int64_t stride, pad;

  int64_t patch() const { return kernel_h * kernel_w * channels; }
  bool direct() const { return kernel_h == 1 && kernel_w == 1 && stride == 1 && pad == 0; }

  /// patches (count, kh, kw, C) of output positions [first, first + count) of all pictures.
  void gather(T* patches, int64_t first, int64_t count) const {
    for (int64_t p = first; p < first + count; ++p) {
      const int64_t ox = p % out_width, oy = p / out_width % out_height;
      const T* const picture = x + p / (out_width * out_height) * height * width * channels;
      for (int64_t ky = 0; ky < kernel_h; ++ky, patches += kernel_w * channels)
        gather_row(patches, picture, oy * stride + ky - pad, ox * stride - pad);
    }
  }

  /// kernel_w pixels of row iy from column ix on, zero outside of the picture.
  void gather_row(T* to, const T* picture, int64_t iy, int64_t ix) const {
    if (iy < 0 || iy >= height) return void(std::fill_n(to, kernel_w * channels, T(0)));
    const int64_t left = std::clamp<int64_t>(-ix, 0, kernel_w);
    const int64_t right = std::clamp<int64_t>(width - ix, left, kernel_w);
    std::fill_n(to, left * channels, T(0));
    std::memcpy(to + left * channels, picture + (iy * width + ix + left) * channels,
                static_cast<size_t>((right - left) * channels) * sizeof(T));
    std::fill_n(to + right * channels, (kernel_w - right) * channels, T(0));
  }

  void block(Scratch& scratch, int64_t first, int64_t count) const {
    const T* from = x + first * channels;
    if (!direct()) {
      T* const patches = scratch.thread<T>(0, count * patch());
      gather(patches, first, count);
      from = patches;
    }
    T* const to = y + first * out_channels;
    for (int64_t i = 0; bias && i < count; ++i)
      std::copy_n(bias, out_channels, to + i * out_channels);
    gemm({count, out_channels, patch()}, T(1), plain<T>(from, patch()), transpose<T>(w, patch()),
         bias ? T(1) : T(0), to, out_channels);
  }
};

}  // namespace

void CpuOps::conv2d(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias,
                    const ConvOptions& options) {
  checks::conv2d(y, x, w, bias, options);
  scratch_.prepare();
  for_dtype(y.dtype(), [&]<typename T>(T) {
    const Conv<T> conv{.x = x.as<const T>(),
                       .w = w.as<const T>(),
                       .bias = bias.as<const T>(),
                       .y = y.as<T>(),
                       .height = x.dim(1),
                       .width = x.dim(2),
                       .channels = x.dim(3),
                       .out_height = y.dim(1),
                       .out_width = y.dim(2),
                       .out_channels = y.dim(3),
                       .kernel_h = w.dim(1),
                       .kernel_w = w.dim(2),
                       .stride = options.stride,
                       .pad = options.pad_before};
    const int64_t positions = y.dim(0) * y.dim(1) * y.dim(2);
    const int64_t block = std::max<int64_t>(16, kBlockElements / conv.patch() / 16 * 16);
    parallel_for(positions, std::min<int64_t>(block, 64), [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; p += block)
        conv.block(scratch_, p, std::min(block, last - p));
    });
  });
}

void CpuOps::upsample2x(const Tensor& y, const Tensor& x) {
  checks::upsample2x(y, x);
  const int64_t width = x.dim(2), pixel = x.dim(3) * dtype_size(x.dtype());
  const auto* const from = static_cast<const char*>(x.data());
  auto* const to = static_cast<char*>(y.data());
  parallel_for(x.dim(0) * x.dim(1), 4, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      char* const row = to + r * 2 * (2 * width) * pixel;
      for (int64_t i = 0; i < 2 * width; ++i)
        std::memcpy(row + i * pixel, from + (r * width + i / 2) * pixel,
                    static_cast<size_t>(pixel));
      std::memcpy(row + 2 * width * pixel, row, static_cast<size_t>(2 * width * pixel));
    }
  });
}

}  // namespace fluxlora
