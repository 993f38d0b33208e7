// SPDX-License-Identifier: Apache-2.0
// Likeness in closed form, and verdicts of measures whose meaning is plain.
#include "eval/verdict.h"

#include <cmath>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "eval/likeness.h"
#include "tensor/buffer.h"

namespace fluxlora::eval {
namespace {

using ::testing::HasSubstr;

HostTensor row(const std::vector<float>& values) {
  HostTensor t(DType::f32, {static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), t.view.as<float>());
  return t;
}

TEST(Likeness, CorrelationAndDistance) {
  const HostTensor a = row({1, 2, 3, 4}), scaled = row({-1, 1, 3, 5}), turned = row({4, 3, 2, 1});
  const HostTensor b = row({1, -1, -1, 1}), flat = row({2, 2, 2, 2});
  EXPECT_NEAR(correlation(a.view, scaled.view), 1, 1e-12);
  EXPECT_NEAR(correlation(a.view, turned.view), -1, 1e-12);
  EXPECT_NEAR(correlation(a.view, b.view), 0, 1e-12);
  EXPECT_EQ(correlation(a.view, flat.view), 0);
  EXPECT_NEAR(rms_difference(a.view, scaled.view), std::sqrt((4 + 1 + 0 + 1) / 4.), 1e-12);
}

TEST(Likeness, ATintIsSpillAndNoDistortion) {
  Picture before{2, 2, {10, 20, 30, 60, 70, 80, 110, 120, 130, 160, 170, 180}}, tinted = before;
  for (size_t i = 0; i < tinted.rgb.size(); i += 3) tinted.rgb[i] += 51;  // red by a fifth
  const PictureChange tint = picture_change(before, tinted);
  EXPECT_NEAR(tint.spill, 0.2 / std::sqrt(3.), 1e-12);
  EXPECT_NEAR(tint.distortion, 0, 1e-12);
  Picture turned = before;
  for (size_t i = 0; i < 12; ++i) turned.rgb[i] = before.rgb[3 * (3 - i / 3) + i % 3];
  const PictureChange turn = picture_change(before, turned);
  EXPECT_NEAR(turn.spill, 0, 1e-12);
  EXPECT_NEAR(turn.distortion, 2, 1e-12);
}

TEST(Verdict, TheShareOfTheLastFifth) {
  const std::vector<LossPoint> line{{0, 1.0}, {50, 0.5}, {100, 0.0}};
  EXPECT_NEAR(falling_share(line, 100), 0.2, 1e-12);
  EXPECT_NEAR(falling_share(line, 50), 0.2, 1e-12);
  const std::vector<LossPoint> early{{0, 1.0}, {50, 0.0}, {100, 0.0}};
  EXPECT_NEAR(falling_share(early, 100), 0, 1e-12);
  EXPECT_EQ(falling_share(std::vector<LossPoint>{{0, 1.0}, {50, 2.0}}, 50), 0);
}

Measures plain() {
  Measures m;
  m.step = 500;
  m.gain = 0.40;
  m.trained_gain = 0.42;
  m.falling = 0.02;
  m.trigger_drift = 0.5;
  m.neutral_drift = 0.05;
  m.distortion = 0.01;
  return m;
}

/// Almost nothing was learnt, and half of that by heart: this is too little, not too much.
TEST(Verdict, TheGapOfNothingIsNothing) {
  Measures little = plain();
  little.trained_gain = 0.03;
  little.gain = -0.01;
  EXPECT_EQ(judge(little).name, "underfit");
}

TEST(Verdict, NamesWhatIsWrongAndTheKeyToTurn) {
  EXPECT_EQ(judge(plain()).name, "good");
  EXPECT_TRUE(judge(plain()).advice.empty());
  Measures memory = plain(), harm = plain(), new_born = plain(), flood = plain();
  memory.gain = 0.02;
  harm.gain = harm.trained_gain = -0.3;
  new_born.falling = 0.6;
  flood.distortion = 0.3;
  const std::vector<std::pair<Measures, std::string>> cases{
      {memory, "overfit"}, {harm, "overfit"}, {new_born, "underfit"}, {flood, "bleeds"}};
  for (const auto& [measures, name] : cases) {
    const Verdict verdict = judge(measures);
    EXPECT_EQ(verdict.name, name);
    EXPECT_THAT(verdict.advice, ::testing::Contains(::testing::AnyOf(HasSubstr("train."),
                                                                     HasSubstr("regularisation"))));
    EXPECT_TRUE(better(plain(), measures));
    EXPECT_FALSE(better(measures, plain()));
  }
}

}  // namespace
}  // namespace fluxlora::eval
