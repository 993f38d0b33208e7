// SPDX-License-Identifier: Apache-2.0
// Elementary functions that the compiler can vectorise without -ffast-math.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace fluxlora {

/// a b + c, in one rounding where the machine has the instruction.
template <typename T>
inline T multiply_add(T a, T b, T c) {
#ifdef __FP_FAST_FMA
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

/// Below e^-50 = 2e-22 the f32 functions give 0: no softmax or sigmoid is the worse for it, and the
/// denormal numbers that would follow in the backward slow matrix products thirtyfold.
constexpr float kLeast = -50.f;

/// e^x within 2 ulp of libm for x in [-50, 88]; above it stays at e^88, below it is 0, NaN stays
/// NaN. Reduction to [-ln2/2, ln2/2] with ln 2 in two parts (Cody and Waite), then the Taylor
/// polynomial of degree 7, whose remainder there is below 6e-9.
inline float exp_of(float x) {
  constexpr float kLog2e = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  const float bounded = x < kLeast ? kLeast : (x > 88.f ? 88.f : x);
  const float shifted = multiply_add(bounded, kLog2e, kRound);
  const float n = shifted - kRound;
  const float r = multiply_add(n, -kLn2Low, multiply_add(n, -kLn2High, bounded));
  float p = 1.f / 5040;
  p = multiply_add(p, r, 1.f / 720);
  p = multiply_add(p, r, 1.f / 120);
  p = multiply_add(p, r, 1.f / 24);
  p = multiply_add(p, r, 1.f / 6);
  p = multiply_add(p, r, 0.5f);
  p = multiply_add(p, r, 1.f);
  p = multiply_add(p, r, 1.f);
  const auto power = (std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound) + 127) << 23;
  const float result = p * std::bit_cast<float>(power);
  return x < kLeast ? 0.f : result;
}
inline double exp_of(double x) {
  return std::exp(x);
}

/// 1 / (1 + e^-x).
inline float sigmoid(float x) {
  const float value = 1.f / (1.f + exp_of(x < kLeast ? -kLeast : -x));
  return x < kLeast ? 0.f : value;
}
inline double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

}  // namespace fluxlora
