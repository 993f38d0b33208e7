// SPDX-License-Identifier: Apache-2.0
// Frozen matrices in few bits: against closed forms, and numbers that one can follow by hand.
// tests/interop/test_nf4.py holds NF4 against bitsandbytes.
#include "tensor/quantise.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "base/philox.h"
#include "memory/arena.h"
#include "tensor/buffer.h"
#include "tensor/nf4.h"

namespace fluxlora {
namespace {

/// A weight with its memory.
struct Stored {
  std::vector<HostTensor> memory;
  Weight weight;

  Stored(WeightFormat format, int64_t out, int64_t in) {
    weight.format = format;
    for_storage(format, out, in, [&](Tensor Weight::* field, DType dtype, auto shape) {
      memory.emplace_back(dtype, shape);
      weight.*field = memory.back().view;
    });
  }
};

HostTensor normal(int64_t out, int64_t in, double size = 0.05) {
  HostTensor x(DType::f32, {out, in});
  Philox numbers(9, Draw::init);
  for (int64_t i = 0; i < x.view.size(); ++i)
    x.view.as<float>()[i] = static_cast<float>(size * numbers.normal());
  return x;
}

std::vector<double> row(const Weight& w, int64_t r) {
  std::vector<double> values(static_cast<size_t>(w.in()));
  read_row(DType::f64, values.data(), w, r);
  std::vector<float> narrow(values.size());
  read_row(DType::f32, narrow.data(), w, r);
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_FLOAT_EQ(narrow[i], static_cast<float>(values[i]));
  return values;
}

TEST(Int8, IsTheRowsLargestOver127) {
  const HostTensor x(DType::f32, {3, 4});
  const float numbers[] = {1.27f, -0.634f, 0.0149f, 0.0151f, 0, 0, 0, 0, -254, 1, 0.9f, 253};
  std::copy(std::begin(numbers), std::end(numbers), x.view.as<float>());
  const Stored s(WeightFormat::int8, 3, 4);
  quantise(s.weight, x.view);
  const int8_t codes[] = {127, -63, 1, 2, 0, 0, 0, 0, -127, 0, 0, 126};
  for (int i = 0; i < 12; ++i) EXPECT_EQ(s.weight.values.as<int8_t>()[i], codes[i]) << i;
  EXPECT_FLOAT_EQ(s.weight.scales.as<float>()[0], 0.01f);
  EXPECT_EQ(s.weight.scales.as<float>()[1], 1);
  EXPECT_EQ(s.weight.scales.as<float>()[2], 2);
  EXPECT_NEAR(row(s.weight, 0)[1], -0.63, 1e-7);
  EXPECT_EQ(row(s.weight, 2), (std::vector<double>{-254, 0, 0, 252}));
}

/// Half a step at most, and as much on average as numbers spread over a step are off by.
TEST(Int8, IsOffByHalfAStep) {
  const HostTensor x = normal(16, 1000);
  const Stored s(WeightFormat::int8, 16, 1000);
  quantise(s.weight, x.view);
  for (int64_t r = 0; r < 16; ++r) {
    const double step = double{s.weight.scales.as<float>()[r]};
    const std::vector<double> found = row(s.weight, r);
    double squares = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const double off = found[i] - double{x.view.as<float>()[r * 1000 + static_cast<int64_t>(i)]};
      EXPECT_LE(std::abs(off), step / 2 * (1 + 1e-5));
      squares += off * off;
    }
    // The mean of 1000 squares is known to 3 %.
    EXPECT_NEAR(std::sqrt(squares / 1000), step / std::sqrt(12), 0.1 * step / std::sqrt(12));
  }
}

TEST(Nf4, TablesAscendAndAreSymmetricWhereTheyShouldBe) {
  for (int i = 0; i < 15; ++i) EXPECT_LT(kNf4.code[i], kNf4.code[i + 1]);
  for (int i = 0; i < 255; ++i) EXPECT_LT(kNf4.nested[i], kNf4.nested[i + 1]);
  EXPECT_EQ(kNf4.nested[127], 0);
  EXPECT_EQ(kNf4.nested[255], 1);
  for (int i = 0; i < 127; ++i) EXPECT_EQ(kNf4.nested[i], -kNf4.nested[254 - i]);
}

/// A matrix of code numbers times magnitudes that the 8-bit map holds exactly comes back as it was.
TEST(Nf4, HoldsItsOwnNumbers) {
  const int64_t out = 8, in = 64;  // a block a row
  const HostTensor x(DType::f32, {out, in});
  for (int64_t r = 0; r < out; ++r)
    for (int64_t i = 0; i < in; ++i)  // magnitudes 1 and 3: mean 2, less the mean -1 and 1
      x.view.as<float>()[r * in + i] = (r % 2 == 0 ? 1.0f : 3.0f) * kNf4.code[(3 * i + r) % 16];
  const Stored s(WeightFormat::nf4, out, in);
  quantise(s.weight, x.view);
  EXPECT_EQ(s.weight.scales.as<float>()[1], 2);
  // -1 is not in the map, whose lowest number is -0.9930: even rows' magnitude is 1.0070.
  const double even = 2 + double{kNf4.nested[0]};
  for (int64_t r = 0; r < out; ++r) {
    const std::vector<double> found = row(s.weight, r);
    for (int64_t i = 0; i < in; ++i)
      EXPECT_NEAR(found[static_cast<size_t>(i)],
                  (r % 2 == 0 ? even : 3) * double{kNf4.code[(3 * i + r) % 16]}, 1e-6);
  }
}

/// Blocks go on over the ends of rows, the last one may be short, and a matrix of zeros stays one.
TEST(Nf4, TakesAnyShapeOfEvenRows) {
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{5, 34}, {1, 2}, {300, 160}}) {
    const HostTensor x = normal(out, in);
    const Stored s(WeightFormat::nf4, out, in);
    quantise(s.weight, x.view);
    double off = 0, all = 0;
    for (int64_t r = 0; r < out; ++r) {
      const std::vector<double> found = row(s.weight, r);
      for (int64_t i = 0; i < in; ++i) {
        const double value = double{x.view.as<float>()[r * in + i]};
        off += std::pow(found[static_cast<size_t>(i)] - value, 2);
        all += value * value;
      }
    }
    // QLoRA's code is made for normal numbers: about a tenth of their size, whatever the shape.
    EXPECT_LT(std::sqrt(off / all), 0.12) << out << ", " << in;
    std::fill_n(x.view.as<float>(), x.view.size(), 0.0f);
    quantise(s.weight, x.view);
    for (const double value : row(s.weight, out - 1)) EXPECT_EQ(value, 0);
  }
}

TEST(Formats, TakeTheBytesThatTheyPromise) {
  const auto bits = [](WeightFormat format, int64_t out, int64_t in) {
    Arena arena;
    arena.take("", format, out, in);
    return 8.0 * static_cast<double>(arena.used()) / static_cast<double>(out * in);
  };
  EXPECT_NEAR(bits(WeightFormat::fp8, 3072, 12288), 8, 0.01);
  EXPECT_NEAR(bits(WeightFormat::int8, 3072, 12288), 8, 0.01);
  EXPECT_NEAR(bits(WeightFormat::nf4, 3072, 12288), 4.127, 0.001);  // QLoRA's figure
  EXPECT_NEAR(bits(WeightFormat::nf4, 64, 63), 16, 0.01) << "odd rows stay bf16";
}

}  // namespace
}  // namespace fluxlora
