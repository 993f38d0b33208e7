// SPDX-License-Identifier: Apache-2.0
// Rounding at random: to a neighbour, right on average, and numbers of the type stay as they are.
#include "tensor/round_stochastically.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "tensor/buffer.h"

namespace fluxlora {
namespace {

HostTensor rounded(const std::vector<float>& values, DType dtype, float scale, uint64_t seed) {
  const auto count = static_cast<int64_t>(values.size());
  HostTensor source(DType::f32, {1, count}), codes(dtype, {1, count}), back(DType::f32, {1, count});
  std::copy(values.begin(), values.end(), source.view.as<float>());
  round_stochastically(codes.view, source.view, scale, seed, 0);
  convert(DType::f32, back.view.data(), dtype, codes.view.data(), count);
  return back;
}

TEST(RoundStochastically, EveryE4m3NumberStays) {
  std::vector<float> values;
  for (int code = 0; code < 256; ++code)
    if ((code & 0x7F) != 0x7F) values.push_back(f8_e4m3_to_f32(static_cast<uint8_t>(code)));
  const HostTensor back = rounded(values, DType::f8_e4m3, 1, 5);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(back.view.as<float>()[i], values[i]);
}

TEST(RoundStochastically, IsRightOnAverageFarBelowHalfAStep) {
  // Each value is a tenth of a step above a number of the type: 1 + 0.1 / 8, and so on; the last
  // two of e4m3 are subnormal.
  struct Case {
    DType dtype;
    float lower, step;
  };
  constexpr int kCount = 40'000;
  for (const Case& c : {Case{DType::f8_e4m3, 1, 0x1p-3f}, Case{DType::f8_e4m3, -3, -0x1p-2f},
                        Case{DType::f8_e4m3, 0x1p-9f, 0x1p-9f}, Case{DType::f8_e4m3, 0, 0x1p-9f},
                        Case{DType::bf16, 0.75f, 0x1p-8f}, Case{DType::f16, 3, 0x1p-9f}}) {
    const std::vector<float> values(kCount, c.lower + 0.1f * c.step);
    const HostTensor back = rounded(values, c.dtype, 1, 9);
    int up = 0;
    for (int i = 0; i < kCount; ++i) {
      const float value = back.view.as<float>()[i];
      ASSERT_TRUE(value == c.lower || value == c.lower + c.step) << value;
      up += value != c.lower;
    }
    // Five standard errors of a share of a tenth.
    EXPECT_NEAR(up / double(kCount), 0.1, 5 * std::sqrt(0.09 / kCount)) << c.lower;
  }
}

TEST(RoundStochastically, ScalesAndSaturates) {
  const HostTensor back = rounded({1000, -1e30f, 224}, DType::f8_e4m3, 2, 1);
  EXPECT_EQ(back.view.as<float>()[0], 448);
  EXPECT_EQ(back.view.as<float>()[1], -448);
  EXPECT_EQ(back.view.as<float>()[2], 112);
}

}  // namespace
}  // namespace fluxlora
