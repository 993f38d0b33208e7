// SPDX-License-Identifier: Apache-2.0
// Packing, flow times, the sampler's schedule: against the golden values of the FLUX.1 definitions.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "flow/euler.h"
#include "flow/pack.h"
#include "flow/timestep.h"
#include "tensor/buffer.h"
#include "tensor/compare.h"

namespace fluxlora::flow {
namespace {

TEST(Pack, ChannelIsSlowestThenRowThenColumn) {
  HostTensor first(DType::f32, {1, 16, 4, 4}), last(DType::f32, {1, 4, 4, 16});
  HostTensor packed(DType::f32, {1, 4, 64}), back(DType::f32, {1, 4, 4, 16});
  HostTensor first_again(DType::f32, {1, 16, 4, 4});
  for (int64_t i = 0; i < 256; ++i) first.view.as<float>()[i] = static_cast<float>(i);
  channels_last(last.view, first.view);
  pack(packed.view, last.view);
  const float* p = packed.view.as<float>();
  const auto begins = [&](int64_t token, std::vector<float> expected) {
    return std::equal(expected.begin(), expected.end(), p + token * 64);
  };
  EXPECT_TRUE(begins(0, {0, 1, 4, 5, 16, 17, 20, 21}));
  EXPECT_TRUE(begins(1, {2, 3, 6, 7, 18, 19, 22, 23}));
  EXPECT_TRUE(begins(2, {8, 9, 12, 13, 24, 25, 28, 29}));
  EXPECT_EQ(std::vector<float>(p + 252, p + 256), (std::vector<float>{250, 251, 254, 255}));
  unpack(back.view, packed.view);
  channels_first(first_again.view, back.view);
  EXPECT_EQ(max_difference(first_again.view, first.view), 0);
}

TEST(Pack, RoundTripOfOddShapes) {
  HostTensor last(DType::f64, {3, 6, 10, 5}), packed(DType::f64, {3, 15, 20}),
      back(DType::f64, {3, 6, 10, 5});
  for (int64_t i = 0; i < last.view.size(); ++i) last.view.as<double>()[i] = static_cast<double>(i);
  pack(packed.view, last.view);
  unpack(back.view, packed.view);
  EXPECT_EQ(max_difference(back.view, last.view), 0);
}

TEST(Pack, ShiftsWholeChannels) {
  HostTensor last(DType::f32, {2, 4, 6, 3}), packed(DType::f32, {2, 6, 12}),
      shifts(DType::f32, {3});
  for (int64_t i = 0; i < last.view.size(); ++i) last.view.as<float>()[i] = static_cast<float>(i);
  for (int64_t c = 0; c < 3; ++c) shifts.view.as<float>()[c] = static_cast<float>(1000 * (c + 1));
  pack(packed.view, last.view);
  shift_channels(packed.view, shifts.view);
  unpack(last.view, packed.view);
  for (int64_t i = 0; i < last.view.size(); ++i)
    EXPECT_EQ(last.view.as<float>()[i], static_cast<float>(i + 1000 * (i % 3 + 1)));
}

TEST(SamplingTimes, AreFluxPipelines) {
  const auto near = [](const std::vector<double>& found, const std::vector<double>& expected) {
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(found.at(i), expected[i], 1e-6) << i;
  };
  const SchedulerConfig dev;
  near(sampling_times(dev, 4, 4096), {1, 0.904531, 0.759511, 0.512844, 0});
  near(sampling_times(dev, 4, 1024), {1, 0.849235, 0.652489, 0.384945, 0});
  near(sampling_times(dev, 28, 4096), {1, 0.988409, 0.976222, 0.963394, 0.949873});
  EXPECT_NEAR(sampling_times(dev, 28, 4096)[27], 0.104721, 1e-6);
  SchedulerConfig schnell;
  schnell.use_dynamic_shifting = false;
  schnell.shift = 1;
  near(sampling_times(schnell, 4, 4096), {1, 0.75, 0.5, 0.25, 0});
}

/// The draws of one option, sorted.
std::vector<double> draws(const TimestepOptions& options, int64_t tokens) {
  std::vector<double> t;
  for (uint32_t step = 0; step < 20000; ++step) {
    Philox random(7, Draw::timestep, step);
    t.push_back(draw_timestep(options, random, tokens));
  }
  std::sort(t.begin(), t.end());
  return t;
}

// Quantiles of 20,000 draws: the standard error of the one at 1/2 is below 0.5 sqrt(1/4/20000) /
// density < 0.004 for all of these.
TEST(Timesteps, HaveTheQuantilesOfTheirFormula) {
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  const double normal_90 = 1.2815516;  // 90 % of a standard normal lie below
  struct Case {
    TimestepOptions options;
    int64_t tokens;
    double half, ninety;
  };
  TimestepOptions uniform{.sampling = "uniform"}, sig{.sampling = "sigmoid", .sigmoid_scale = 0.5};
  TimestepOptions logit{.sampling = "logit_normal", .logit_mean = -0.4, .logit_std = 1.2};
  TimestepOptions shift{.sampling = "shift", .shift = 3.1582};
  TimestepOptions flux{.sampling = "flux_shift"};
  const TimestepOptions mode{.sampling = "mode", .mode_scale = 1.29};
  // diffusers' formula, which gives 1 - t.
  const auto one_less = [](double u) {
    return 1 - u - 1.29 * (std::pow(std::cos(std::numbers::pi * u / 2), 2) - 1 + u);
  };
  const auto cube = [](double u) { return u * u * u; };
  const double e115 = std::exp(1.15);
  for (const Case& c :
       {Case{uniform, 64, 0.5, 0.9}, Case{sig, 64, 0.5, sigmoid(0.5 * normal_90)},
        Case{logit, 64, sigmoid(-0.4), sigmoid(-0.4 + 1.2 * normal_90)},
        Case{shift, 64, shift_time(0.5, 3.1582), shift_time(sigmoid(normal_90), 3.1582)},
        Case{flux, 4096, shift_time(0.5, e115), shift_time(sigmoid(normal_90), e115)},
        Case{{.sampling = "linear"}, 64, 0.5, 0.9},
        Case{{.sampling = "sigma", .shift = 3}, 64, shift_time(0.5, 3), shift_time(0.9, 3)},
        Case{{.sampling = "linear_flux_shift"}, 4096, shift_time(0.5, e115), shift_time(0.9, e115)},
        Case{{.sampling = "style"}, 64, cube(0.5), cube(0.9)},
        Case{{.sampling = "content"}, 64, 1 - cube(0.5), 1 - cube(0.1)},
        Case{mode, 64, 1 - one_less(0.5), 1 - one_less(0.9)}}) {
    const std::vector<double> t = draws(c.options, c.tokens);
    EXPECT_NEAR(t[10000], c.half, 0.012) << c.options.sampling;
    EXPECT_NEAR(t[18000], c.ninety, 0.012) << c.options.sampling;
    EXPECT_GT(t.front(), 0);
    EXPECT_LT(t.back(), 1);
  }
}

TEST(Timesteps, ShiftOfTheResolution) {
  EXPECT_NEAR(std::log(resolution_shift(256)), 0.5, 1e-12);
  EXPECT_NEAR(std::log(resolution_shift(1024)), 0.63, 1e-12);
  EXPECT_NEAR(std::log(resolution_shift(2304)), 0.846667, 1e-6);
  EXPECT_NEAR(resolution_shift(4096), 3.1582, 1e-4);
}

// ai-toolkit draws 750 numbers 1 - L / (the largest L) and 250 on a line, and picks one of the
// 1000.
TEST(Timesteps, LognormBlendIsAMixture) {
  std::vector<double> expected;
  for (uint32_t run = 0; run < 40; ++run) {
    Philox random(11, Draw::init, run);
    std::vector<double> L;
    for (int i = 0; i < 750; ++i) L.push_back(std::exp(0.333 * random.normal()));
    const double largest = *std::max_element(L.begin(), L.end());
    for (const double l : L) expected.push_back(1 - l / largest);
    for (int i = 0; i < 250; ++i) expected.push_back((i + 0.5) / 250);
  }
  std::sort(expected.begin(), expected.end());
  const std::vector<double> t = draws({.sampling = "lognorm_blend"}, 64);
  // The largest of 750 has a spread of its own, which moves the lower half by 0.01 or so.
  for (const double q : {0.1, 0.25, 0.5, 0.75, 0.9})
    EXPECT_NEAR(t[static_cast<size_t>(q * 20000)], expected[static_cast<size_t>(q * 40000)], 0.03)
        << q;
}

TEST(TimeWeights, AreTheirFormulas) {
  EXPECT_EQ(time_weight({}, 0.3), 1);
  EXPECT_NEAR(time_weight({.weighting = "sigma_sqrt"}, 0.25), 16, 1e-12);
  EXPECT_NEAR(time_weight({.weighting = "cosmap"}, 0.5), 4 / std::numbers::pi, 1e-12);
  EXPECT_NEAR(time_weight({.weighting = "cosmap"}, 0), 2 / std::numbers::pi, 1e-12);
  EXPECT_NEAR(time_weight({.weighting = "bell"}, 0), 0, 1e-12);
  // cosmap and bell have mean 1.
  for (const char* name : {"cosmap", "bell"}) {
    double sum = 0;
    for (int i = 0; i < 10000; ++i) sum += time_weight({.weighting = name}, (i + 0.5) / 10000);
    EXPECT_NEAR(sum / 10000, 1, 1e-6) << name;
  }
}

TEST(Timesteps, UnknownNameIsAnError) {
  EXPECT_THROW(check(TimestepOptions{.sampling = "sigmoidal"}), Error);
  EXPECT_THROW(check(TimestepOptions{.sigmoid_scale = 0}), Error);
  EXPECT_NO_THROW(check(TimestepOptions{}));
}

}  // namespace
}  // namespace fluxlora::flow
