// SPDX-License-Identifier: Apache-2.0
// T5's encoder against transformers on the built-in model; its buckets of positions.
#include <cstring>
#include <map>

#include <gtest/gtest.h>

#include "backend/cpu/cpu_device.h"
#include "golden.h"
#include "model/t5/encoder.h"
#include "model/t5/relative_bias.h"

namespace fluxlora {
namespace {

TEST(T5Encoder, BucketsOfDistances) {
  // flux-facts 11: delta = key - query.
  const std::map<int64_t, int64_t> expected{{-200, 15}, {-91, 15}, {-90, 14}, {-64, 14}, {-63, 13},
                                            {-32, 12},  {-31, 11}, {-16, 10}, {-8, 8},   {-7, 7},
                                            {0, 0},     {1, 17},   {7, 23},   {8, 24},   {12, 25},
                                            {16, 26},   {64, 30},  {128, 31}};
  for (const auto& [delta, bucket] : expected)
    EXPECT_EQ(t5::bucket(delta, 32, 128), bucket) << delta;
}

TEST(T5Encoder, BiasIsTheTableByHeadQueryAndKey) {
  T5Config config;
  config.heads = 2;
  HostTensor table(DType::f32, {32, 2}), bias(DType::f32, {2, 20, 20});
  for (int64_t i = 0; i < 64; ++i) table.view.as<float>()[i] = static_cast<float>(i);
  t5::fill_bias(bias.view, table.view, config);
  const auto at = [&](int64_t h, int64_t query, int64_t key) {
    return bias.view.as<float>()[(h * 20 + query) * 20 + key];
  };
  EXPECT_EQ(at(0, 3, 3), 0);
  EXPECT_EQ(at(1, 3, 3), 1);
  EXPECT_EQ(at(1, 0, 1), 2 * 17 + 1);  // the key is behind the query
  EXPECT_EQ(at(0, 19, 3), 2 * 10);     // 16 before it
}

TEST(T5Encoder, StatesOfTheBuiltInModel) {
  const auto device = open_cpu_device();
  const SafetensorsFile file = golden::open("encoders");
  T5Encoder encoder(*device, golden::source("assets/tiny-flux/text_encoder_2"), DType::f32);
  for (const std::string name : {"t5", "t5_long"}) {
    const HostTensor expected = golden::read(file, name + "_states");
    const SafetensorsFile::Entry& entry = file.entry(name + "_ids");
    std::vector<int32_t> ids(static_cast<size_t>(entry.bytes) / sizeof(int32_t));
    std::memcpy(ids.data(), entry.data, static_cast<size_t>(entry.bytes));
    encoder.prepare(expected.view.dim(0), expected.view.dim(1));
    // f32 sums of these sizes: another order of adding changes 1e-6; 1e-5 leaves room.
    EXPECT_LT(relative_error(encoder.forward(ids), expected.view), 1e-5) << name;
  }
}

/// Frozen matrices in few bits: how far the states may be from f32's follows from how far weights
/// are (int8 0.6 %, fp8 2.6 %, NF4 9 %), which each block adds to once more.
TEST(T5Encoder, TakesWeightsInFewBits) {
  const auto device = open_cpu_device();
  const SafetensorsFile file = golden::open("encoders");
  const HostTensor expected = golden::read(file, "t5_states");
  const SafetensorsFile::Entry& entry = file.entry("t5_ids");
  std::vector<int32_t> ids(static_cast<size_t>(entry.bytes) / sizeof(int32_t));
  std::memcpy(ids.data(), entry.data, static_cast<size_t>(entry.bytes));
  double last = 0;
  for (const auto& [format, most] :
       {std::pair{WeightFormat::int8, 0.03}, {WeightFormat::fp8, 0.1}, {WeightFormat::nf4, 0.35}}) {
    T5Encoder encoder(*device, golden::source("assets/tiny-flux/text_encoder_2"), DType::f32,
                      format);
    encoder.prepare(expected.view.dim(0), expected.view.dim(1));
    const double off = relative_error(encoder.forward(ids), expected.view);
    EXPECT_LT(off, most);
    EXPECT_GT(off, last) << "fewer bits are further off";
    last = off;
  }
}

/// 4.7 billion numbers; "fp8 4.9 GB" is what people download.
TEST(T5Encoder, OfFullSizeFitsASmallCard) {
  constexpr double kGiB = 1 << 30;
  const auto gib = [](WeightFormat format) {
    return static_cast<double>(T5Encoder::bytes({}, DType::bf16, format, 512)) / kGiB;
  };
  EXPECT_NEAR(gib(WeightFormat::bf16), 8.87, 0.4);  // 4,762,310,656 numbers of two bytes, and work
  EXPECT_NEAR(gib(WeightFormat::fp8), 4.56, 0.4);   // 131,596,288 of them in the token table
  EXPECT_NEAR(gib(WeightFormat::nf4), 2.47, 0.4);
}

}  // namespace
}  // namespace fluxlora
