// SPDX-License-Identifier: Apache-2.0
// What a picture's pixels say about it: how sharp, how light, and what it looks like.
#pragma once

#include <array>
#include <cstdint>

#include "data/picture.h"

namespace fluxlora::prepare {

/// Grey levels are Rec. 601 luma of the sRGB values, 0 to 255.
struct Measures {
  /// Variance of the 4-neighbour Laplacian of the grey levels in the second sharpest of 4 x 4
  /// tiles: a subject before a blurred background is sharp, one speck on a blurred picture is not
  /// enough (Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy", LAPV).
  double sharpness = 0;
  int dark = 0, light = 0;  ///< 5th and 95th percentile of the grey levels
  uint64_t whole = 0;       ///< perceptual_hash of the whole picture
  uint64_t crop = 0;        ///< and of what is trained
  /// Mean colours of the 28 outer of 8 x 8 cells of the whole picture, clockwise from the top left:
  /// mostly background.
  std::array<uint8_t, 84> border{};
};

/// `whole` is the upright source, `crop` what is trained of it.
Measures measure(const Picture& whole, const Picture& crop);

/// 64 signs of a picture's 8 x 8 lowest cosine frequencies, of 32 x 32 grey levels, against their
/// median (without the mean): close for pictures that look alike whatever their size, format and
/// brightness (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions").
uint64_t perceptual_hash(const Picture& picture);

/// How many of the 64 signs differ; 32 +- 4 for two pictures that have nothing in common.
int hash_distance(uint64_t a, uint64_t b);

/// Mean absolute difference of two borders, 0 to 255.
double border_distance(const Measures& a, const Measures& b);

}  // namespace fluxlora::prepare
