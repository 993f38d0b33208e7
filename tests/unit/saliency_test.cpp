// SPDX-License-Identifier: Apache-2.0
// The saliency network against PyTorch in double precision (tools/train_saliency/golden.py), and
// what a map says about the place of a crop.
#include "prepare/saliency.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "tensor/safetensors.h"

namespace fluxlora {
namespace {

/// golden.py's picture.
Picture stripes_on_a_slope(int width, int height) {
  Picture picture{width, height, {}};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const bool inside = x >= width / 2 && x < width / 2 + 24 && y >= 16 && y < 40;
      for (int c = 0; c < 3; ++c) {
        const int stripe = (x + y) / 3 % 2 == 0 ? 230 - 90 * c : 40 + 60 * c;
        picture.rgb.push_back(static_cast<uint8_t>(inside ? stripe : 60 + (x + 2 * y) / 4));
      }
    }
  }
  return picture;
}

TEST(Saliency, IsWhatPyTorchSays) {
  const SafetensorsFile golden(FLUXLORA_SOURCE_DIR "/tests/golden/saliency.safetensors");
  const auto device = open_device("cpu");
  SaliencyNetwork network(*device);
  for (const auto& [name, size] : {std::pair{"wide", Size{128, 64}}, {"tall", Size{96, 128}}}) {
    const SaliencyMap map = network.look(stripes_on_a_slope(size.width, size.height));
    const HostTensor expected = golden.read(name, DType::f32);
    ASSERT_EQ(expected.view.dim(0), map.height);
    ASSERT_EQ(expected.view.dim(1), map.width);
    float surest = 0;
    for (size_t i = 0; i < map.p.size(); ++i) {
      // Sixteen layers in f32 against f64: some 1e-5 is their rounding.
      EXPECT_NEAR(map.p[i], expected.view.as<const float>()[i], 1e-3) << name << " " << i;
      surest = std::max(surest, map.p[i]);
    }
    EXPECT_GT(surest, 0.5) << "the golden has a subject";
  }
}

TEST(Saliency, LooksAtMultiplesOf32) {
  EXPECT_EQ(SaliencyNetwork::glance_size({6000, 4000}), Size(128, 96));
  EXPECT_EQ(SaliencyNetwork::glance_size({1080, 1920}), Size(64, 128));
  EXPECT_EQ(SaliencyNetwork::glance_size({7, 7}), Size(128, 128));
  EXPECT_EQ(SaliencyNetwork::glance_size({100000, 1}), Size(128, 64));
}

/// A map of one row.
SaliencyMap row(std::vector<float> p) {
  return {static_cast<int>(p.size()), 1, std::move(p)};
}

TEST(Saliency, TheMiddleOfAllThatFits) {
  EXPECT_NEAR(*salient_middle(row({0, 0, 1, 1, 0, 0, 0, 0}), true, 4), 3, 0.01);
  EXPECT_NEAR(*salient_middle(row({0, 1, 0, 0, 1, 0, 0, 0}), true, 4), 3, 0.05);
  // What is less sure than half of the surest does not count.
  EXPECT_NEAR(*salient_middle(row({0, 1, 0, 0, 0, 0.4F, 0, 0}), true, 6), 1.5, 0.01);
  // The other axis.
  EXPECT_NEAR(*salient_middle({1, 4, {0, 0, 0, 0.9F}}, false, 2), 3.5, 0.01);
}

TEST(Saliency, TheMostWhereNotAllFits) {
  EXPECT_NEAR(*salient_middle(row({1, 0, 0, 0, 0, 1, 1, 0.9F}), true, 3), 6.5, 0.01);
  EXPECT_NEAR(*salient_middle(row({1, 1, 1, 1, 1, 1, 0.6F, 0.6F}), true, 6), 3, 0.01);
}

TEST(Saliency, NothingStandsOut) {
  EXPECT_FALSE(salient_middle(row({0.1F, 0.2F, 0.1F, 0}), true, 2));
}

}  // namespace
}  // namespace fluxlora
