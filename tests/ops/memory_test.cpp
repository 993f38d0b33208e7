// SPDX-License-Identifier: Apache-2.0
// Copies, fills, conversions, sums; rows of tables.
#include <cstring>

#include "op_case.h"

namespace fluxlora::testing {
namespace {

using Memory = OpTest;

TEST_F(Memory, CopiesAndAddsAnyStrides) {
  const Tensor x = random({2, 9, 5});
  const Tensor gaps = strided(x), back = poisoned({2, 9, 5});
  ops().copy(back, gaps);
  EXPECT_EQ(max_difference(back, x), 0);
  const Tensor y = random({2, 9, 5}), expected = copy_of(y);
  for (int64_t i = 0; i < x.size(); ++i) expected.as<double>()[i] += 0.3 * x.as<double>()[i];
  ops().add_scaled(y, gaps, 0.3);
  EXPECT_LE(relative_error(y, expected), 1e-15);
  const Tensor picture = random({2, 3, 4, 5}), other = poisoned({2, 3, 2, 5});
  ops().copy(other, picture.slice(2, 1, 2));
  EXPECT_EQ(other.as<double>()[5 * 2 * 3 + 7], picture.as<double>()[5 * 4 * 3 + 12]);
  const Tensor flat = random({1001}), same = poisoned({1001});
  ops().copy(same, flat);
  EXPECT_EQ(max_difference(same, flat), 0);
}

TEST_F(Memory, FillsAViewAndNothingElse) {
  const Tensor x = random({2, 4, 6}), before = copy_of(x);
  ops().fill(x.tokens(1, 2).columns(2, 3), 7);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t t = 0; t < 4; ++t)
      for (int64_t i = 0; i < 6; ++i) {
        const bool inside = t >= 1 && t < 3 && i >= 2 && i < 5;
        EXPECT_EQ(at(x, b, t, i), inside ? 7 : at(before, b, t, i));
      }
}

TEST_F(Memory, CastsBetweenFormats) {
  const Tensor x = random({100, 401}), back = poisoned({100, 401});
  HostTensor bf16(DType::bf16, {100, 401});
  ops().cast(bf16.view, x);
  ops().cast(back, bf16.view);
  for (int64_t i = 0; i < x.size(); ++i)
    ASSERT_NEAR(back.as<double>()[i], x.as<double>()[i], std::fabs(x.as<double>()[i]) / 256);
}

TEST_F(Memory, EmbedPicksRows) {
  HostTensor ids(DType::i32, {2, 3});
  const int32_t picked[] = {4, 0, 6, 2, 2, 1};
  std::memcpy(ids.view.data(), picked, sizeof picked);
  const Tensor table = random({7, 5});
  HostTensor table16(DType::bf16, {7, 5});
  ops().cast(table16.view, table);
  const Tensor y = poisoned({2, 3, 5}), y16 = poisoned({2, 3, 5}), rounded = poisoned({7, 5});
  ops().embed(y, ids.view, table);
  ops().embed(y16, ids.view, table16.view);
  ops().cast(rounded, table16.view);
  for (int64_t r = 0; r < 6; ++r)
    for (int64_t i = 0; i < 5; ++i) {
      EXPECT_EQ(at(y, r / 3, r % 3, i), at(table, 0, picked[r], i));
      EXPECT_EQ(at(y16, r / 3, r % 3, i), at(rounded, 0, picked[r], i));
    }
}

// Against the definition in double, and the value of flux-facts 11 by its formula: cos first.
TEST_F(Memory, TimestepEmbedIsTheFormula) {
  const Tensor t = random({3}, 0.2, 0.5), y = poisoned({3, 64});
  ops().timestep_embed(y, t);
  for (int64_t b = 0; b < 3; ++b)
    for (int64_t k = 0; k < 32; ++k) {
      const double angle =
          1000 * t.as<double>()[b] * std::pow(10000.0, -static_cast<double>(k) / 32);
      EXPECT_NEAR(at(y, 0, b, k), std::cos(angle), 1e-10);
      EXPECT_NEAR(at(y, 0, b, 32 + k), std::sin(angle), 1e-10);
    }
  // f32 keeps the reference's arithmetic: angles to 1000 have an error of about 1e-4.
  HostTensor t32(DType::f32, {3}), y32(DType::f32, {3, 64});
  ops().cast(t32.view, t);
  ops().timestep_embed(y32.view, t32.view);
  const Tensor wide = poisoned({3, 64});
  ops().cast(wide, y32.view);
  EXPECT_LE(max_difference(wide, y), 3e-4);
}

}  // namespace
}  // namespace fluxlora::testing
