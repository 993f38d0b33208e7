// SPDX-License-Identifier: Apache-2.0
// Products with fp8 weights on the GPU: the quantiser against the host's decoder, and the three
// ways of the product against the CPU's, which multiplies exact weights. Skipped without a GPU.
#include "backend/cuda/check.h"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/linear.h"
#include "backend/cuda/operand_kernels.h"
#include "cuda_case.h"

namespace fluxlora::testing {
namespace {

using cuda::Fp8Path;

struct Size {
  int64_t B, T, in, out;
};

/// e4m3 has three bits behind the leading one, so that a number is off by at most 1/16, and numbers
/// spread evenly between two steps by 1/16 / sqrt(3) / 1.4 on average.
constexpr double kQuantised = 0.04;
/// One more rounding to bf16, and f32 sums in another order.
constexpr double kRounded = 1e-2;

class Fp8 : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    if (context().capability() < 89) GTEST_SKIP() << "this GPU has no fp8 products";
  }
  cuda::Context& context() {
    if (!context_) context_ = std::make_unique<cuda::Context>(0);
    return *context_;
  }

  /// A bf16 tensor on both sides; the host's is f32.
  struct Pair {
    HostTensor host;
    Buffer memory;
    Tensor device;
  };
  Pair bf16_tensor(const Shape& shape, uint32_t draw, const std::function<double(int64_t)>& scale) {
    Pair p{host_tensor(DType::f32, shape), {}, {}};
    HostTensor narrow = host_tensor(DType::bf16, shape);
    Philox random(23, Draw::init, draw);
    const int64_t width = shape.back();
    for (int64_t i = 0; i < p.host.view.size(); ++i) {
      const auto v = static_cast<float>(scale(i / width) * random.normal());
      narrow.view.as<uint16_t>()[i] = f32_to_bf16(v);
      p.host.view.as<float>()[i] = bf16_to_f32(f32_to_bf16(v));
    }
    p.memory = gpu().allocate(narrow.view.bytes());
    p.device = Tensor(DType::bf16, shape.data(), static_cast<int>(shape.size()), p.memory.data());
    gpu().upload(p.device, narrow.view.data());
    return p;
  }

  /// A weight of rows of very unequal size, quantised on the GPU, on both sides.
  struct Fp8Weight {
    Pair source;
    Buffer values, scales;
    HostTensor host_values, host_scales;
    Weight device, host;
  };
  Fp8Weight weight(int64_t out, int64_t in) {
    Fp8Weight w;
    w.source = bf16_tensor({out, in}, 1, [&](int64_t row) {
      return std::pow(10.0, static_cast<double>(row % 7) - 3) / std::sqrt(static_cast<double>(in));
    });
    w.values = gpu().allocate(out * in);
    w.scales = gpu().allocate(out * 4);
    w.device = {WeightFormat::fp8, Tensor(DType::f8_e4m3, {out, in}, w.values.data()),
                Tensor(DType::f32, {out}, w.scales.data())};
    cuda::quantise_rows(context().stream(), w.values.data(), static_cast<float*>(w.scales.data()),
                        w.source.device, nullptr);
    wait();
    w.host_values = host_tensor(DType::f8_e4m3, {out, in});
    w.host_scales = host_tensor(DType::f32, {out});
    gpu().download(w.host_values.view.data(), w.device.values);
    gpu().download(w.host_scales.view.data(), w.device.scales);
    w.host = {WeightFormat::fp8, w.host_values.view, w.host_scales.view};
    return w;
  }

  /// The device of CudaTest has a stream of its own.
  void wait() { CUDA_CHECK(cudaStreamSynchronize(context().stream())); }

  std::unique_ptr<cuda::Context> context_;
};

TEST_F(Fp8, QuantiserRoundsToTheNearest) {
  const int64_t out = 96, in = 1040;
  const Fp8Weight w = weight(out, in);
  for (int64_t r = 0; r < out; ++r) {
    const float scale = w.host_scales.view.as<float>()[r];
    float largest = 0;
    for (int64_t c = 0; c < in; ++c)
      largest = std::max(largest, std::abs(w.source.host.view.as<float>()[r * in + c]));
    EXPECT_NEAR(scale, largest / 448, 1e-6 * largest / 448);
    for (int64_t c = 0; c < in; ++c) {
      const float source = w.source.host.view.as<float>()[r * in + c];
      const float back = scale * f8_e4m3_to_f32(w.host_values.view.as<uint8_t>()[r * in + c]);
      // Half a step: 1/16 of the number, or of the least normal number, 2^-6.
      ASSERT_LE(std::abs(back - source), (1 / 16.0 + 1e-5) * std::max(std::abs(source), scale / 64))
          << r << ", " << c;
    }
  }
}

/// The operation, in both types of activations and for rows that no access of 16 bytes divides.
TEST_F(Fp8, QuantiseAgreesWithTheHosts) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const int64_t in : {48, 1000, 1001, 3072}) {
      const int64_t out = 37;
      const Pair source = bf16_tensor({out, in}, 5, [](int64_t row) { return row == 3 ? 0 : 0.1; });
      const Buffer wide = gpu().allocate(out * in * 4), codes = gpu().allocate(out * in),
                   factors = gpu().allocate(out * 4);
      Tensor x = source.device;
      if (dtype == DType::f32) {
        x = Tensor(DType::f32, {out, in}, wide.data());
        gpu().upload(x, source.host.view.data());
      }
      const Weight w{WeightFormat::fp8, Tensor(DType::f8_e4m3, {out, in}, codes.data()),
                     Tensor(DType::f32, {out}, factors.data())};
      gpu().ops().quantise(w, x);
      const HostTensor found = host_tensor(DType::f8_e4m3, {out, in}),
                       found_factors = host_tensor(DType::f32, {out});
      gpu().download(found.view.data(), w.values);
      gpu().download(found_factors.view.data(), w.scales);
      const HostTensor wanted = host_tensor(DType::f8_e4m3, {out, in}),
                       wanted_factors = host_tensor(DType::f32, {out});
      cpu().ops().quantise({WeightFormat::fp8, wanted.view, wanted_factors.view}, source.host.view);
      int64_t others = 0;
      for (int64_t i = 0; i < out * in; ++i)
        others += found.view.as<uint8_t>()[i] != wanted.view.as<uint8_t>()[i];
      // One multiplies by 1 / factor, the other divides: a number between two codes may go either
      // way.
      EXPECT_LE(others, out * in / 500) << in;
      for (int64_t r = 0; r < out; ++r)
        EXPECT_FLOAT_EQ(found_factors.view.as<float>()[r], wanted_factors.view.as<float>()[r]);
    }
}

TEST_F(Fp8, ThreeWaysAgree) {
  for (const Size& z : {Size{1, 512, 256, 384}, Size{2, 33, 144, 1040}, Size{2, 36, 144, 1040},
                        Size{1, 1, 3072, 64}, Size{1, 300, 3072, 9216}}) {
    const Fp8Weight w = weight(z.out, z.in);
    const auto one = [](int64_t) { return 1.0; };
    const Pair x = bf16_tensor({z.B, z.T, z.in}, 2, one);
    const Pair dy = bf16_tensor({z.B, z.T, z.out}, 3, one);
    const Pair bias = bf16_tensor({z.out}, 4, one);
    HostTensor y = host_tensor(DType::f32, {z.B, z.T, z.out});
    HostTensor dx = host_tensor(DType::f32, {z.B, z.T, z.in});
    cpu().ops().linear(y.view, x.host.view, w.host, bias.host.view);
    cpu().ops().linear_dx(dx.view, dy.host.view, w.host, Grad::overwrite);

    cuda::CudaOps ops(context());
    for (const Fp8Path path : {Fp8Path::automatic, Fp8Path::library_scales, Fp8Path::kernel_scales,
                               Fp8Path::dequantised}) {
      // cuBLASLt has factors of rows on Hopper, where they begin on 16 bytes.
      const bool aligned = z.B == 1 || z.T % 4 == 0;
      if (path == Fp8Path::library_scales && (context().capability() != 90 || !aligned)) continue;
      cuda::Linear linear(context());
      linear.use_fp8_path(path);
      const double tolerance = path == Fp8Path::dequantised ? kRounded : kQuantised;
      const std::string what = "way " + std::to_string(static_cast<int>(path)) + ", T " +
                               std::to_string(z.T) + ", out " + std::to_string(z.out);
      const auto result = [&](const Shape& shape, const std::function<void(const Tensor&)>& call) {
        // Rows apart, so that items have no single stride.
        Shape wider = shape;
        wider[1] += 1;
        wider[2] += 16;
        HostTensor all = host_tensor(DType::bf16, wider);
        std::memset(all.view.data(), 0xff, static_cast<size_t>(all.view.bytes()));
        Buffer memory = gpu().allocate(all.view.bytes());
        const Tensor whole(DType::bf16, wider.data(), 3, memory.data());
        gpu().upload(whole, all.view.data());
        call(whole.tokens(1, shape[1]).columns(8, shape[2]));
        wait();
        gpu().download(all.view.data(), whole);
        HostTensor inner = host_tensor(DType::f32, shape);
        int64_t n = 0;
        for_elements(all.view.tokens(1, shape[1]).columns(8, shape[2]), [&](int64_t at) {
          inner.view.as<float>()[n++] =
              bf16_to_f32(all.view.tokens(1, shape[1]).columns(8, shape[2]).as<uint16_t>()[at]);
        });
        return inner;
      };
      const HostTensor gpu_y = result({z.B, z.T, z.out}, [&](const Tensor& to) {
        linear.forward(ops, to, x.device, w.device, bias.device);
      });
      EXPECT_LE(relative_error(gpu_y.view, y.view), tolerance) << what;
      const HostTensor gpu_dx = result({z.B, z.T, z.in}, [&](const Tensor& to) {
        linear.backward(ops, to, dy.device, w.device, false);
      });
      EXPECT_LE(relative_error(gpu_dx.view, dx.view), tolerance) << what;
      const HostTensor twice = result({z.B, z.T, z.in}, [&](const Tensor& to) {
        linear.backward(ops, to, dy.device, w.device, false);
        linear.backward(ops, to, dy.device, w.device, true);
      });
      for (int64_t i = 0; i < dx.view.size(); ++i) dx.view.as<float>()[i] *= 2;
      EXPECT_LE(relative_error(twice.view, dx.view), tolerance) << what << ", accumulated";
      for (int64_t i = 0; i < dx.view.size(); ++i) dx.view.as<float>()[i] /= 2;
    }
  }
}

}  // namespace
}  // namespace fluxlora::testing
