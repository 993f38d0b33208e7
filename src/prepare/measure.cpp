// SPDX-License-Identifier: Apache-2.0
#include "prepare/measure.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <numbers>
#include <utility>
#include <vector>

#include "data/glance.h"
#include "data/resize.h"

namespace fluxlora::prepare {

namespace {

constexpr int kTiles = 4, kCells = 8, kHashSide = 32, kFrequencies = 8;

float grey(const uint8_t* rgb) {
  return 0.299f * rgb[0] + 0.587f * rgb[1] + 0.114f * rgb[2];
}

std::vector<float> grey_levels(const Picture& picture) {
  std::vector<float> levels(picture.rgb.size() / 3);
  for (size_t i = 0; i < levels.size(); ++i) levels[i] = grey(&picture.rgb[3 * i]);
  return levels;
}

Picture square(const Picture& picture, int side) {
  return resize(picture, {0, 0, picture.width, picture.height}, {side, side});
}

/// Small enough that a filter takes no time, and large enough for it to be exact.
Picture small_copy(const Picture& picture) {
  constexpr int kSide = 8 * kHashSide;
  return block_means(picture, {std::min(kSide, picture.width), std::min(kSide, picture.height)});
}

/// Of the Laplacian within the rows [top, bottom) and columns [left, right), edges left out.
double laplacian_variance(const std::vector<float>& levels, int width, const Box& tile) {
  double sum = 0, squares = 0;
  for (int y = tile.y; y < tile.y + tile.height; ++y) {
    const float* row = &levels[static_cast<size_t>(y) * width];
    for (int x = tile.x; x < tile.x + tile.width; ++x) {
      const double l = row[x - width] + row[x + width] + row[x - 1] + row[x + 1] - 4 * row[x];
      sum += l;
      squares += l * l;
    }
  }
  const double count = double(tile.width) * tile.height;
  return squares / count - (sum / count) * (sum / count);
}

double sharpness(const std::vector<float>& levels, int width, int height) {
  const int across = (width - 2) / kTiles, down = (height - 2) / kTiles;
  if (across < 1 || down < 1) return 0;
  std::vector<double> tiles;
  for (int r = 0; r < kTiles; ++r)
    for (int c = 0; c < kTiles; ++c)
      tiles.push_back(
          laplacian_variance(levels, width, {1 + c * across, 1 + r * down, across, down}));
  std::nth_element(tiles.begin(), tiles.begin() + 1, tiles.end(), std::greater<>());
  return tiles[1];
}

/// The grey levels below which the shares lie.
std::pair<int, int> percentiles(const std::vector<float>& levels, double low, double high) {
  std::array<size_t, 256> counts{};
  for (const float level : levels) ++counts[static_cast<size_t>(std::lround(level))];
  const auto level_at = [&](double share) {
    const auto place = static_cast<size_t>(share * static_cast<double>(levels.size() - 1));
    size_t below = 0;
    int level = 0;
    while ((below += counts[static_cast<size_t>(level)]) <= place) ++level;
    return level;
  };
  return {level_at(low), level_at(high)};
}

std::array<uint8_t, 84> border_of(const Picture& whole) {
  const Picture cells = square(whole, kCells);
  std::array<uint8_t, 84> border;
  size_t at = 0;
  const auto take = [&](int x, int y) {
    std::copy_n(&cells.rgb[static_cast<size_t>(y * kCells + x) * 3], 3, &border[at]);
    at += 3;
  };
  constexpr int kLast = kCells - 1;
  for (int i = 0; i < kLast; ++i) take(i, 0);
  for (int i = 0; i < kLast; ++i) take(kLast, i);
  for (int i = 0; i < kLast; ++i) take(kLast - i, kLast);
  for (int i = 0; i < kLast; ++i) take(0, kLast - i);
  return border;
}

}  // namespace

uint64_t perceptual_hash(const Picture& picture) {
  const std::vector<float> levels = grey_levels(square(picture, kHashSide));
  const auto wave = [](int frequency, int place) {
    return std::cos(std::numbers::pi * frequency * (2 * place + 1) / (2 * kHashSide));
  };
  std::array<double, kFrequencies * kFrequencies> cosines{};
  for (int v = 0; v < kFrequencies; ++v)
    for (int u = 0; u < kFrequencies; ++u)
      for (int y = 0; y < kHashSide; ++y)
        for (int x = 0; x < kHashSide; ++x)
          cosines[v * kFrequencies + u] += levels[y * kHashSide + x] * wave(u, x) * wave(v, y);
  std::array<double, cosines.size() - 1> sorted;  // without the mean
  std::copy(cosines.begin() + 1, cosines.end(), sorted.begin());
  std::nth_element(sorted.begin(), sorted.begin() + sorted.size() / 2, sorted.end());
  const double median = sorted[sorted.size() / 2];
  uint64_t hash = 0;
  for (size_t i = 0; i < cosines.size(); ++i) hash |= uint64_t{cosines[i] > median} << i;
  return hash;
}

int hash_distance(uint64_t a, uint64_t b) {
  return std::popcount(a ^ b);
}

double border_distance(const Measures& a, const Measures& b) {
  int sum = 0;
  for (size_t i = 0; i < a.border.size(); ++i) sum += std::abs(a.border[i] - b.border[i]);
  return static_cast<double>(sum) / static_cast<double>(a.border.size());
}

Measures measure(const Picture& whole, const Picture& crop) {
  const std::vector<float> levels = grey_levels(crop);
  const Picture small = small_copy(whole);
  const auto [dark, light] = percentiles(levels, 0.05, 0.95);
  return {sharpness(levels, crop.width, crop.height),
          dark,
          light,
          perceptual_hash(small),
          perceptual_hash(small_copy(crop)),
          border_of(small)};
}

}  // namespace fluxlora::prepare
