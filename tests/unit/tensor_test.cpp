// SPDX-License-Identifier: Apache-2.0
// Element types, views, comparison.
#include "tensor/tensor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/philox.h"
#include "tensor/buffer.h"
#include "tensor/compare.h"
#include "tensor/quantise.h"

namespace fluxlora {
namespace {

// tests/interop/test_safetensors.py compares all codes with torch; here the properties that define
// the formats are checked without it.
TEST(DType, EveryF16CodeSurvives) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const auto bits = static_cast<uint16_t>(code);
    const float value = f16_to_f32(bits);
    if ((bits & 0x7FFF) > 0x7C00)
      EXPECT_TRUE(std::isnan(value)) << code;
    else
      EXPECT_EQ(f32_to_f16(value), bits) << code;
  }
  EXPECT_EQ(f16_to_f32(0x3C00), 1.0f);
  EXPECT_EQ(f16_to_f32(0x7BFF), 65504.0f);
  EXPECT_EQ(f16_to_f32(0x0001), 0x1p-24f);
  EXPECT_EQ(f16_to_f32(0xFC00), -std::numeric_limits<float>::infinity());
}

TEST(DType, F8IsTheNearestCode) {
  for (uint32_t code = 0; code < 256; ++code) {
    const auto bits = static_cast<uint8_t>(code);
    const float value = f8_e4m3_to_f32(bits);
    if (std::isnan(value))
      EXPECT_EQ(f32_to_f8_e4m3(value) & 0x7F, 0x7F) << code;
    else
      EXPECT_EQ(f32_to_f8_e4m3(value), bits) << code;
    // Halfway to the next code: to the even one; a little beside it: to the nearer one.
    if ((code & 0x7F) >= 0x7E) continue;
    const float next = f8_e4m3_to_f32(static_cast<uint8_t>(code + 1)), middle = (value + next) / 2;
    EXPECT_EQ(f32_to_f8_e4m3(middle), code % 2 ? code + 1 : code) << code;
    EXPECT_EQ(f32_to_f8_e4m3(std::nextafter(middle, value)), code) << code;
    EXPECT_EQ(f32_to_f8_e4m3(std::nextafter(middle, next)), code + 1) << code;
  }
  const float inf = std::numeric_limits<float>::infinity();
  for (const float large : {449.0f, 464.0f, 465.0f, 1e30f, inf}) {
    EXPECT_EQ(f32_to_f8_e4m3(large), 0x7E);
    EXPECT_EQ(f32_to_f8_e4m3(-large), 0xFE);
  }
  EXPECT_EQ(f32_to_f8_e4m3(1e-30f), 0);
}

TEST(Quantise, EveryRowUsesAllOfItsRange) {
  HostTensor source(DType::f32, {5, 333}), scales(DType::f32, {5}),
      values(DType::f8_e4m3, {5, 333});
  Philox random(3, Draw::init);
  for (int64_t i = 0; i < source.view.size(); ++i)  // rows of very different sizes
    source.view.as<float>()[i] =
        static_cast<float>(random.normal() * std::pow(10.0, static_cast<double>(i / 333 * 3 - 6)));
  std::fill_n(source.view.as<float>() + 4 * 333, 333, 0.0f);
  quantise({WeightFormat::fp8, values.view, scales.view}, source.view);
  for (int64_t o = 0; o < 5; ++o) {
    const float scale = scales.view.as<float>()[o];
    float largest = 0;
    for (int64_t i = 0; i < 333; ++i) {
      const float x = source.view.as<float>()[o * 333 + i];
      const float y = f8_e4m3_to_f32(values.view.as<uint8_t>()[o * 333 + i]);
      largest = std::max(largest, std::fabs(y));
      // Three bits of mantissa: half a unit is 1/16 of a number, or 2^-10 below the normal ones.
      EXPECT_LE(std::fabs(y * scale - x), std::max(std::fabs(x) / 16, scale * 0x1p-10f) * 1.0001f);
    }
    EXPECT_EQ(largest, o == 4 ? 0.0f : 448.0f);
  }
  EXPECT_EQ(scales.view.as<float>()[4], 1.0f);
}

TEST(DType, ConvertScalesAndReadsWhatIsNotAligned) {
  constexpr int64_t kCount = 100'003;
  std::vector<unsigned char> bytes(2 * kCount + 1);
  std::vector<float> out(kCount);
  for (int64_t i = 0; i < kCount; ++i) {
    const uint16_t bits = f32_to_bf16(static_cast<float>(i % 1001) - 500);
    std::memcpy(bytes.data() + 1 + 2 * i, &bits, 2);
  }
  convert(DType::f32, out.data(), DType::bf16, bytes.data() + 1, kCount, 0.3);
  for (int64_t i = 0; i < kCount; ++i)
    ASSERT_EQ(out[static_cast<size_t>(i)],
              bf16_to_f32(f32_to_bf16(static_cast<float>(i % 1001) - 500)) * 0.3f);
}

TEST(DType, EveryBf16CodeSurvives) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const auto bits = static_cast<uint16_t>(code);
    const float value = bf16_to_f32(bits);
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(value)))) << code;
    else
      EXPECT_EQ(f32_to_bf16(value), bits) << code;
  }
  EXPECT_EQ(bf16_to_f32(0x3F80), 1.0f);
}

/// Between neighbouring codes below and above, everything up to the middle goes down, the middle to
/// the even code, the rest up.
template <typename Encode, typename Decode>
void expect_nearest_even(uint16_t last_finite, Encode encode, Decode decode) {
  for (uint32_t code = 0; code < last_finite; ++code) {
    const auto low = static_cast<uint16_t>(code), high = static_cast<uint16_t>(code + 1);
    const double sum = static_cast<double>(decode(low)) + static_cast<double>(decode(high));
    const auto middle = static_cast<float>(sum / 2);
    const float before = std::nextafter(middle, 0.0f), after = std::nextafter(middle, INFINITY);
    ASSERT_EQ(encode(before), low) << code;
    ASSERT_EQ(encode(middle), code % 2 == 0 ? low : high) << code;
    ASSERT_EQ(encode(after), high) << code;
    ASSERT_EQ(encode(-middle), (code % 2 == 0 ? low : high) | 0x8000) << code;
  }
}

TEST(DType, RoundsToNearestEven) {
  expect_nearest_even(0x7BFF, f32_to_f16, f16_to_f32);
  expect_nearest_even(0x7F7F, f32_to_bf16, bf16_to_f32);
  EXPECT_EQ(f32_to_f16(65519.99f), 0x7BFF);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7C00);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7F80);
}

// OCP "8-bit floating point specification" 1.0, tables 1 and 2.
TEST(DType, Fp8Formats) {
  EXPECT_EQ(f8_e4m3_to_f32(0x7E), 448.0f);
  EXPECT_EQ(f8_e4m3_to_f32(0x08), 0x1p-6f);
  EXPECT_EQ(f8_e4m3_to_f32(0x01), 0x1p-9f);
  EXPECT_EQ(f8_e4m3_to_f32(0xB8), -1.0f);
  EXPECT_TRUE(std::isnan(f8_e4m3_to_f32(0x7F)) && std::isnan(f8_e4m3_to_f32(0xFF)));
  EXPECT_EQ(f8_e5m2_to_f32(0x7B), 57344.0f);
  EXPECT_EQ(f8_e5m2_to_f32(0x01), 0x1p-16f);
  EXPECT_EQ(f8_e5m2_to_f32(0x7C), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(f8_e5m2_to_f32(0x7D)));
  for (int code = 1; code < 0x7F; ++code)
    EXPECT_LT(f8_e4m3_to_f32(static_cast<uint8_t>(code - 1)),
              f8_e4m3_to_f32(static_cast<uint8_t>(code)));
}

TEST(DType, NamesAndSizes) {
  for (int i = 0; i <= static_cast<int>(DType::boolean); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_safetensors(safetensors_name(dtype), "f"), dtype);
  }
  EXPECT_EQ(dtype_size(DType::bf16), 2);
  EXPECT_EQ(dtype_size(DType::f8_e4m3), 1);
  EXPECT_THROW(dtype_from_safetensors("F12", "f"), Error);
}

TEST(DType, ConvertsBetweenAllFloatingTypes) {
  const std::vector<double> values{0, 1, -2.5, 0.15625, 448, -0.001953125};  // exact in all of them
  const auto count = static_cast<int64_t>(values.size());
  for (const DType from : {DType::f64, DType::f32, DType::bf16, DType::f16})
    for (const DType to : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
      HostTensor a(from, {count}), b(to, {count}), c(DType::f64, {count});
      convert(from, a.view.data(), DType::f64, values.data(), count);
      convert(to, b.view.data(), from, a.view.data(), count);
      convert(DType::f64, c.view.data(), to, b.view.data(), count);
      for (int64_t i = 0; i < count; ++i)
        EXPECT_EQ(c.view.as<double>()[i], values[static_cast<size_t>(i)]);
    }
  const uint8_t code = 0x7E;
  double decoded = 0;
  convert(DType::f64, &decoded, DType::f8_e4m3, &code, 1);
  EXPECT_EQ(decoded, 448);
}

TEST(Tensor, ViewsPointToTheRightElements) {
  std::vector<float> memory(2 * 3 * 4);
  std::iota(memory.begin(), memory.end(), 0.0f);
  const Tensor x(DType::f32, {2, 3, 4}, memory.data());
  EXPECT_EQ(x.size(), 24);
  EXPECT_EQ(x.bytes(), 96);
  EXPECT_TRUE(x.contiguous());
  EXPECT_EQ(x.dim(-1), 4);
  EXPECT_EQ(x.stride(0), 12);

  const Tensor tokens = x.tokens(1, 2);  // (2, 2, 4)
  EXPECT_EQ(tokens.as<float>()[0], 4);
  EXPECT_EQ(tokens.as<float>()[tokens.stride(0)], 16);
  EXPECT_FALSE(tokens.contiguous());
  EXPECT_FALSE(tokens.rows_are_uniform());
  EXPECT_TRUE(x.slice(0, 1, 1).tokens(1, 2).contiguous());

  const Tensor columns = x.columns(2, 2);  // (2, 3, 2)
  EXPECT_EQ(columns.as<float>()[0], 2);
  const Tensor rows = columns.flat_rows();  // (6, 2)
  EXPECT_EQ(rows.dim(0), 6);
  EXPECT_EQ(rows.as<float>()[5 * rows.stride(0) + 1], 23);

  const Tensor item = x.item(1);  // (3, 4)
  EXPECT_EQ(item.rank(), 2);
  EXPECT_EQ(item.as<float>()[0], 12);
  const Tensor item_of_view = tokens.item(1);  // (2, 4)
  EXPECT_EQ(item_of_view.as<float>()[item_of_view.stride(0)], 20);

  EXPECT_EQ(x.reshaped({6, 4}).dim(0), 6);
  EXPECT_TRUE(x.same_shape(x.tokens(0, 3)));
  EXPECT_FALSE(x.same_shape(tokens));
  EXPECT_EQ(tokens.describe(), "F32 (2, 2, 4)");
  EXPECT_FALSE(Tensor());
  EXPECT_EQ(Tensor().size(), 0);
}

TEST(Tensor, MisuseIsAFaultOfTheProgram) {
  float memory[6] = {};
  const Tensor x(DType::f32, {2, 3}, memory);
  EXPECT_THROW(x.slice(0, 1, 2), Error);
  EXPECT_THROW(x.slice(2, 0, 1), Error);
  EXPECT_THROW(x.reshaped({5}), Error);
  EXPECT_THROW(x.columns(0, 2).reshaped({4}), Error);
  EXPECT_THROW(Tensor(DType::f32, {2, 3}, memory).item(2), Error);
}

TEST(Compare, MeasuresDifferences) {
  float a[4] = {3, 0, 4, 0}, b[4] = {3, 0, 0, 0}, zero[4] = {};
  const Tensor ta(DType::f32, {2, 2}, a), tb(DType::f32, {2, 2}, b), tz(DType::f32, {2, 2}, zero);
  EXPECT_DOUBLE_EQ(relative_error(ta, tb), 4.0 / 3);
  EXPECT_DOUBLE_EQ(relative_error(tb, ta), 0.8);
  EXPECT_DOUBLE_EQ(relative_error(ta, tz), 5);
  EXPECT_DOUBLE_EQ(cosine(ta, tb), 0.6);
  EXPECT_DOUBLE_EQ(max_difference(ta, tb), 4);
  a[1] = NAN;
  EXPECT_TRUE(std::isinf(relative_error(ta, tb)));
  EXPECT_THROW(relative_error(ta, ta.reshaped({4})), Error);

  double wide[8] = {1, 9, 2, 9, 3, 9, 4, 9}, narrow[4] = {1, 2, 3, 5};
  const Tensor strided = Tensor(DType::f64, {4, 2}, wide).columns(0, 1);
  EXPECT_DOUBLE_EQ(max_difference(strided, Tensor(DType::f64, {4, 1}, narrow)), 1);
}

}  // namespace
}  // namespace fluxlora
