// SPDX-License-Identifier: Apache-2.0
// Every optimizer against the published one that tests/golden/make_optimizers.py ran: 200 steps on
// the same noisy problem.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include <gtest/gtest.h>

#include "ops/device.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "tensor/safetensors.h"
#include "unit/expect_error.h"

namespace fluxlora::optim {
namespace {

const std::vector<Part> kParts{{0, 4, 96}, {384, 160, 4}, {1024, 24, 40}};
constexpr int64_t kSize = 1984, kSteps = 200;
/// 200 steps of f32 rounding; sums in another order than PyTorch's.
constexpr double kTolerance = 1e-5;

/// kSize numbers in [-1, 1), as make_optimizers.py says.
std::vector<float> hashed(uint64_t stream) {
  std::vector<float> numbers;
  for (uint64_t i = 0; i < kSize; ++i) {
    uint64_t z = ((stream << 32) + i) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    numbers.push_back(static_cast<float>(static_cast<double>(z >> 40) * 0x1p-23 - 1));
  }
  return numbers;
}

struct Case {
  Options options;
  double learning_rate = 1e-2;
  int64_t warmup = 0;
  std::vector<Part> parts = kParts;
};

class Optimizers : public ::testing::Test {
 protected:
  HostTensor golden(const std::string& name) const { return file_.read(name, DType::f32); }

  /// Where `c` ends.
  HostTensor end_of(const Case& c) {
    HostTensor p = golden("start");
    const HostTensor g(DType::f32, {kSize}), norm(DType::f32, {1});
    const auto optimizer = make_optimizer(*device_, c.options, c.parts, DType::f32);
    const std::vector<float> goal = hashed(1001), curvature = hashed(1002);
    for (int64_t step = 0; step < kSteps; ++step) {
      const std::vector<float> noise = hashed(static_cast<uint64_t>(step));
      for (size_t i = 0; i < kSize; ++i)
        g.view.as<float>()[i] =
            (1.25f + 0.75f * curvature[i]) * (p.view.as<float>()[i] - goal[i]) + 0.3f * noise[i];
      device_->ops().global_norm(norm.view, g.view);
      const double rise = static_cast<double>(step + 1) / static_cast<double>(c.warmup);
      optimizer->step(p.view, g.view, norm.view, c.learning_rate * std::min(1.0, rise), step + 1);
    }
    if (optimizer->averages()) optimizer->average(p.view);
    return p;
  }

  /// |end - golden| over the way that was made.
  double distance(const HostTensor& end, const std::string& name) const {
    const HostTensor there = golden(name), start = golden("start");
    double off = 0, way = 0;
    for (int64_t i = 0; i < kSize; ++i) {
      const double to = there.view.as<float>()[i];
      off += std::pow(end.view.as<float>()[i] - to, 2);
      way += std::pow(start.view.as<float>()[i] - to, 2);
    }
    return std::sqrt(off / way);
  }

  void expect_published(const std::string& name, const Case& c) {
    const double off = distance(end_of(c), name);
    RecordProperty(name, std::to_string(off));
    printf("%-20s %.2e\n", name.c_str(), off);
    EXPECT_LE(off, kTolerance) << name;
  }

  static Options options(const std::string& name) {
    return {.optimizer = name, .weight_decay = 0.1, .max_grad_norm = 0};
  }

 private:
  std::unique_ptr<Device> device_ = open_device("cpu");
  SafetensorsFile file_{std::string(FLUXLORA_SOURCE_DIR) + "/tests/golden/optimizers.safetensors"};
};

TEST_F(Optimizers, AdamWIsPyTorchs) {
  Case c{options("adamw")};
  c.options.beta2 = 0.99;
  c.options.max_grad_norm = 2;
  expect_published("adamw", c);
}

/// Both are as far from AdamW in f32, and closer to one another.
TEST_F(Optimizers, AdamW8bitIsAsExactAsBitsandbytes) {
  Case c{options("adamw8bit")};
  c.options.beta2 = 0.99;
  c.parts = {{0, 1, kSize}};
  const HostTensor end = end_of(c);
  const double ours = distance(end, "adamw_whole"), mutual = distance(end, "adamw8bit");
  const double theirs = distance(golden("adamw8bit"), "adamw_whole");
  printf("ours %.2e, bitsandbytes %.2e, between them %.2e\n", ours, theirs, mutual);
  EXPECT_LE(ours, 1.1 * theirs);
  EXPECT_LE(mutual, theirs);
}

TEST_F(Optimizers, GroupsHaveTheirRates) {
  Case c{options("adamw"), 1e-3};
  c.parts[1].rate = 16;
  expect_published("lora_plus", c);
}

TEST_F(Optimizers, EmaIsDiffusers) {
  Case c{options("adamw")};
  c.options.beta2 = 0.99;
  c.options.ema = 0.95;
  expect_published("ema", c);
}

TEST_F(Optimizers, LionIsBitsandbytes) {
  expect_published("lion", {options("lion")});
}

TEST_F(Optimizers, AdafactorIsTransformers) {
  Case c{options("adafactor")};
  c.options.max_grad_norm = 2;
  expect_published("adafactor", c);
  c.options.max_grad_norm = 0;
  c.options.relative_step = true;
  expect_published("adafactor_relative", c);
}

TEST_F(Optimizers, ProdigyIsProdigyopt) {
  Case c{options("prodigy"), 1};
  c.options.d0 = 1e-3;
  c.options.bias_correction = c.options.safeguard_warmup = false;
  expect_published("prodigy", c);
  Case careful{options("prodigy"), 1, 20};
  careful.options.d0 = 1e-3;
  careful.options.d_coef = 0.5;
  expect_published("prodigy_careful", careful);
}

TEST_F(Optimizers, ScheduleFreeIsSchedulefree) {
  expect_published("schedule_free", {options("schedule_free"), 1e-2, 20});
}

TEST_F(Optimizers, ProdigyRefusesGroups) {
  std::vector<Part> parts = kParts;
  parts[1].rate = 16;
  const auto device = open_device("cpu");
  EXPECT_ERROR(make_optimizer(*device, options("prodigy"), parts, DType::f32), bad_input,
               "train.rates", "one rate");
}

/// diffusers' warm-up begins at 0, this one a step further; the rest is the same.
TEST_F(Optimizers, SchedulesAreDiffusersAndPyTorchs) {
  for (const char* name : {"constant", "linear", "cosine", "restarts", "polynomial", "one_cycle"}) {
    const HostTensor rates = golden(std::string("rate.") + name);
    const ScheduleOptions o{1, name, 10, 3, 3};
    for (int64_t step = 0; step < 100; ++step) {
      const bool shifted = step < 10 && std::string(name) != "one_cycle";
      const double theirs = rates.view.as<float>()[shifted ? step + 1 : step];
      EXPECT_NEAR(learning_rate(o, step, 100), theirs, 1e-6) << name << " " << step;
    }
  }
}

/// Gradients G + noise of known size: 1984 numbers of variance 1/3 each, |G|² = 200.
TEST_F(Optimizers, NoiseOfGradientsIsMeasured) {
  const auto device = open_device("cpu");
  Options o = options("adamw");
  o.measure_noise = true;
  o.ema = 0.9;  // both at once
  const auto optimizer = make_optimizer(*device, o, kParts, DType::f32);
  const HostTensor p = golden("start"), g(DType::f32, {kSize}), norm(DType::f32, {1});
  const double each = std::sqrt(200. / kSize), expected = kSize / 3. / 200;
  for (int64_t step = 0; step < kSteps; ++step) {
    const std::vector<float> noise = hashed(static_cast<uint64_t>(step));
    for (size_t i = 0; i < kSize; ++i) g.view.as<float>()[i] = static_cast<float>(each) + noise[i];
    device->ops().global_norm(norm.view, g.view);
    optimizer->step(p.view, g.view, norm.view, 1e-3, step + 1);
    EXPECT_EQ(optimizer->noise().has_value(), step > 0);
  }
  // |G|² is measured to about 2 sqrt(2 w S / 3 |G|²) / |G| ~ 2 %, w = 0.026 and S = 661.
  EXPECT_NEAR(*optimizer->noise(), expected, 0.08 * expected);
}

TEST(OptimizerOptions, WhatDoesNotGoTogetherIsRefused) {
  Options o{.optimizer = "schedule_free", .ema = 0.9};
  EXPECT_ERROR(fill_in(o), bad_input, "train.ema", "of its own");
  o = {.optimizer = "adam"};
  EXPECT_ERROR(fill_in(o), bad_input, "train.optimizer", "not an optimizer");
  o = {.optimizer = "lion"};
  fill_in(o);
  EXPECT_EQ(o.beta2, 0.99);
}

}  // namespace
}  // namespace fluxlora::optim
