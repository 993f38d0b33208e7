// SPDX-License-Identifier: Apache-2.0
// Products with weights in few bits on the GPU: the quantisers against the host's, and the three
// ways of the product against the CPU's, which multiplies exact weights. Skipped without a GPU.
#include "backend/cuda/check.h"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/linear.h"
#include "backend/cuda/nf4.h"
#include "cuda_case.h"
#include "tensor/quantise.h"

namespace fluxlora::testing {
namespace {

using cuda::CodePath;

struct Size {
  int64_t B, T, in, out;
};

/// e4m3 has three bits behind the leading one, so that a number is off by at most 1/16, and numbers
/// spread evenly between two steps by 1/16 / sqrt(3) / 1.4 on average.
constexpr double kQuantised = 0.04;
/// NF4's weights become e4m3 too.
constexpr double kQuantisedTwice = 0.055;
/// Normal numbers whose largest of a row, about 4, is 127 steps: a step is 0.03, and numbers are
/// off by 0.03 / sqrt(12). With the weight's factors folded into dy only one number in seven is of
/// full size, while those ten and a hundred times smaller are off by as much.
constexpr double kQuantisedInt8 = 0.03;
/// One more rounding to bf16, and f32 sums in another order.
constexpr double kRounded = 1e-2;

class Codes8 : public CudaTest {
 protected:
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

  /// A weight quantised on the GPU, on both sides. The rows of fp8 and int8 are of very unequal
  /// size; those of NF4 are not, whose blocks' magnitudes share a mean.
  struct Codes {
    Pair source;
    std::vector<Buffer> memory;
    std::vector<HostTensor> host_memory;
    Weight device, host;
  };
  Codes weight(WeightFormat format, int64_t out, int64_t in) {
    Codes w;
    w.source = bf16_tensor({out, in}, 1, [&](int64_t row) {
      const double size =
          format == WeightFormat::nf4 ? 1 : std::pow(10.0, static_cast<double>(row % 7) - 3);
      return size / std::sqrt(static_cast<double>(in));
    });
    w.device.format = w.host.format = format;
    for_storage(format, out, in, [&](Tensor Weight::* field, DType dtype, auto shape) {
      w.host_memory.emplace_back(dtype, shape);
      w.host.*field = w.host_memory.back().view;
      w.memory.push_back(gpu().allocate(w.host_memory.back().view.bytes()));
      w.device.*field = Tensor(dtype, shape, w.memory.back().data());
    });
    gpu().ops().quantise(w.device, w.source.device);
    for_storage(format, out, in, [&](Tensor Weight::* field, auto...) {
      gpu().download((w.host.*field).data(), w.device.*field);
    });
    return w;
  }

  /// The device of CudaTest has a stream of its own.
  void wait() { CUDA_CHECK(cudaStreamSynchronize(context().stream())); }

  std::unique_ptr<cuda::Context> context_;
};

TEST_F(Codes8, Fp8RoundsToTheNearest) {
  const int64_t out = 96, in = 1040;
  const Codes w = weight(WeightFormat::fp8, out, in);
  for (int64_t r = 0; r < out; ++r) {
    const float scale = w.host.scales.as<float>()[r];
    float largest = 0;
    for (int64_t c = 0; c < in; ++c)
      largest = std::max(largest, std::abs(w.source.host.view.as<float>()[r * in + c]));
    EXPECT_NEAR(scale, largest / 448, 1e-6 * largest / 448);
    for (int64_t c = 0; c < in; ++c) {
      const float source = w.source.host.view.as<float>()[r * in + c];
      const float back = scale * f8_e4m3_to_f32(w.host.values.as<uint8_t>()[r * in + c]);
      // Half a step: 1/16 of the number, or of the least normal number, 2^-6.
      ASSERT_LE(std::abs(back - source), (1 / 16.0 + 1e-5) * std::max(std::abs(source), scale / 64))
          << r << ", " << c;
    }
  }
}

/// The operation, in both types of activations and for rows that no access of 16 bytes divides.
TEST_F(Codes8, QuantiseAgreesWithTheHosts) {
  for (const WeightFormat format : {WeightFormat::fp8, WeightFormat::int8, WeightFormat::nf4})
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const int64_t in : {48, 1000, 1001, 3072}) {
        if (stored_format(format, in) != format) continue;
        const int64_t out = 37;
        Codes w = weight(format, out, in);
        const Pair source =
            bf16_tensor({out, in}, 5, [](int64_t row) { return row == 3 ? 0 : 0.1; });
        const Buffer wide = gpu().allocate(out * in * 4);
        Tensor x = source.device;
        if (dtype == DType::f32) {
          x = Tensor(DType::f32, {out, in}, wide.data());
          gpu().upload(x, source.host.view.data());
        }
        gpu().ops().quantise(w.device, x);
        cpu().ops().quantise(w.host, source.host.view);
        const std::string what = "format " + std::to_string(static_cast<int>(format)) + ", in " +
                                 std::to_string(in) + ", " + x.describe();
        for_storage(format, out, in, [&](Tensor Weight::* field, DType type, auto shape) {
          const HostTensor found(type, shape);
          gpu().download(found.view.data(), w.device.*field);
          const Tensor& wanted = w.host.*field;
          int64_t others = 0;
          for (int64_t i = 0; i < wanted.size(); ++i) {
            if (type == DType::f32)
              EXPECT_FLOAT_EQ(found.view.as<float>()[i], wanted.as<float>()[i]) << what;
            else
              others += found.view.as<uint8_t>()[i] != wanted.as<uint8_t>()[i];
          }
          // One multiplies by 1 / factor, the other divides: a number between two codes may go
          // either way. NF4 multiplies on both sides; only the mean of magnitudes is added up in
          // another order.
          const bool exact = format == WeightFormat::nf4 && field == &Weight::values;
          EXPECT_LE(others, exact ? 0 : std::max<int64_t>(wanted.size() / 500, 2)) << what;
        });
      }
}

/// What NF4 stands for, as the kernels that products use unpack it.
TEST_F(Codes8, Nf4IsUnpackedAsTheHostUnpacksIt) {
  for (const int64_t in : {48, 90, 1000, 3072}) {
    const int64_t out = 144;
    const Codes w = weight(WeightFormat::nf4, out, in);
    std::vector<float> wanted(static_cast<size_t>(out * in));
    for (int64_t r = 0; r < out; ++r) read_row(DType::f32, wanted.data() + r * in, w.host, r);
    const HostTensor found = host_tensor(DType::f32, {out, in});
    const Buffer memory = gpu().allocate(found.view.bytes());
    const Tensor plain(DType::f32, {out, in}, memory.data());
    cuda::dequantise_nf4(context().stream(), plain, w.device);
    wait();
    gpu().download(found.view.data(), plain);
    // f32, with or without one rounding between a product and a sum.
    for (size_t i = 0; i < wanted.size(); ++i)
      ASSERT_NEAR(found.view.as<float>()[i], wanted[i], 1e-6 * std::abs(wanted[i])) << in;
    if (in % 16 != 0) continue;
    const Buffer codes = gpu().allocate(out * in), factors = gpu().allocate(out * 4);
    const HostTensor straight = host_tensor(DType::u8, {out, in}),
                     turned = host_tensor(DType::u8, {out, in}),
                     scales = host_tensor(DType::f32, {out});
    for (const HostTensor* to : {&turned, &straight}) {
      cuda::dequantise_nf4_to_fp8(context().stream(), codes.data(),
                                  static_cast<float*>(factors.data()), w.device, to == &turned);
      wait();
      gpu().download(to->view.data(), Tensor(DType::u8, {out, in}, codes.data()));
    }
    gpu().download(scales.view.data(), Tensor(DType::f32, {out}, factors.data()));
    const auto* const bytes = straight.view.as<const uint8_t>();
    for (int64_t i = 0; i < out * in; ++i)
      ASSERT_EQ(turned.view.as<uint8_t>()[i % in * out + i / in], bytes[i]) << in << ", " << i;
    for (int64_t i = 0; i < out * in; ++i) {
      const float scale = scales.view.as<float>()[i / in];
      const float back = scale * f8_e4m3_to_f32(bytes[i]);
      const float number = wanted[static_cast<size_t>(i)];
      // Half a step of e4m3: 1/16 of the number, or of the least normal number, 2^-6.
      ASSERT_LE(std::abs(back - number), (1 / 16.0 + 1e-5) * std::max(std::abs(number), scale / 64))
          << in << ", " << i;
    }
  }
}

class ThreeWays : public Codes8, public ::testing::WithParamInterface<WeightFormat> {};

TEST_P(ThreeWays, Agree) {
  const WeightFormat format = GetParam();
  const bool int8 = format == WeightFormat::int8;
  if (!int8 && context().capability() < 89) GTEST_SKIP() << "this GPU has no fp8 products";
  for (const Size& z : {Size{1, 512, 256, 384}, Size{2, 33, 144, 1040}, Size{2, 36, 144, 1040},
                        Size{1, 1, 3072, 64}, Size{1, 300, 3072, 9216}}) {
    const Codes w = weight(format, z.out, z.in);
    const auto one = [](int64_t) { return 1.0; };
    const Pair x = bf16_tensor({z.B, z.T, z.in}, 2, one);
    const Pair dy = bf16_tensor({z.B, z.T, z.out}, 3, one);
    const Pair bias = bf16_tensor({z.out}, 4, one);
    HostTensor y = host_tensor(DType::f32, {z.B, z.T, z.out});
    HostTensor dx = host_tensor(DType::f32, {z.B, z.T, z.in});
    cpu().ops().linear(y.view, x.host.view, w.host, bias.host.view);
    cpu().ops().linear_dx(dx.view, dy.host.view, w.host, Grad::overwrite);

    cuda::CudaOps ops(context());
    for (const CodePath path : {CodePath::automatic, CodePath::library_scales,
                                CodePath::kernel_scales, CodePath::dequantised}) {
      // cuBLASLt has factors of rows on Hopper, where they begin on 16 bytes.
      const bool aligned = z.B == 1 || z.T % 4 == 0;
      if (path == CodePath::library_scales && (int8 || context().capability() != 90 || !aligned))
        continue;
      cuda::Linear linear(context());
      linear.use_path(path);
      const double tolerance = path == CodePath::dequantised ? kRounded
                               : int8                        ? kQuantisedInt8
                               : format == WeightFormat::nf4 ? kQuantisedTwice
                                                             : kQuantised;
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
        linear.forward(ops, to, x.device, w.device, bias.device, false);
      });
      EXPECT_LE(relative_error(gpu_y.view, y.view), tolerance) << what;
      const HostTensor added = result({z.B, z.T, z.out}, [&](const Tensor& to) {
        linear.forward(ops, to, x.device, w.device, {}, false);
        linear.forward(ops, to, x.device, w.device, bias.device, true);
      });
      HostTensor twice_y = host_tensor(DType::f32, {z.B, z.T, z.out});
      for (int64_t i = 0; i < y.view.size(); ++i)
        twice_y.view.as<float>()[i] =
            2 * y.view.as<float>()[i] - bias.host.view.as<float>()[i % z.out];
      EXPECT_LE(relative_error(added.view, twice_y.view), tolerance) << what << ", accumulated";
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

INSTANTIATE_TEST_SUITE_P(Formats, ThreeWays,
                         ::testing::Values(WeightFormat::fp8, WeightFormat::int8,
                                           WeightFormat::nf4));

}  // namespace
}  // namespace fluxlora::testing
