// SPDX-License-Identifier: Apache-2.0
// NF4 (flux-facts 7.8): what QLoRA and bitsandbytes store. A block of 64 numbers has 4-bit codes of
// its numbers over its largest magnitude. Those magnitudes, less their mean over the matrix, are
// stored in 8 bits, in blocks of 256 with a largest magnitude each.
#pragma once

namespace fluxlora {

/// The numbers that codes stand for, ascending, and the bounds between them: code i is for numbers
/// in (bounds[i - 1], bounds[i]].
struct Nf4Tables {
  float code[16] = {};
  float code_bounds[15] = {};
  float nested[256] = {};
  float nested_bounds[255] = {};
};

constexpr Nf4Tables make_nf4_tables() {
  Nf4Tables t{{-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
               -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
               0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f,
               0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f,
               1.0f}};
  // bitsandbytes' signed dynamic map: the middles of 2^i pieces of [0.1, 1], times 10^(i - 6).
  constexpr int kZero = 127;
  t.nested[255] = 1;
  double power = 1e-6;
  for (int i = 0, at = 1; i < 7; ++i, power *= 10) {
    const int pieces = 1 << i;
    for (int j = 0; j < pieces; ++j, ++at) {
      const double middle = 0.1 + 0.9 * (j + 0.5) / pieces;
      t.nested[kZero + at] = static_cast<float>(power * middle);
      t.nested[kZero - at] = -t.nested[kZero + at];
    }
  }
  for (int i = 0; i < 15; ++i) t.code_bounds[i] = (t.code[i] + t.code[i + 1]) / 2;
  for (int i = 0; i < 255; ++i) t.nested_bounds[i] = (t.nested[i] + t.nested[i + 1]) / 2;
  return t;
}

inline constexpr Nf4Tables kNf4 = make_nf4_tables();

}  // namespace fluxlora
