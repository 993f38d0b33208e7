// SPDX-License-Identifier: Apache-2.0
// The stop on curves whose right answer is known in closed form.
#include "eval/early_stop.h"

#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fluxlora::eval {
namespace {

using ::testing::HasSubstr;

std::vector<LossPoint> curve(int points, const std::function<double(double)>& loss) {
  std::vector<LossPoint> history;
  for (int i = 0; i < points; ++i) history.push_back({10 * i, loss(i)});
  return history;
}

/// The first point at which a run with this curve would stop, as a run asks: after every point.
std::optional<size_t> stops_at(const std::vector<LossPoint>& history, StopOptions options = {}) {
  for (size_t n = 1; n <= history.size(); ++n)
    if (early_stop(std::span(history).first(n), options).stop) return n - 1;
  return std::nullopt;
}

TEST(EarlyStop, AnExponentialStopsWhereItsTailIsBelowTheGain) {
  // 1 + e^(-i/5): the last p points bring e^(-i/5) (e^(p/5) - 1) of the gain 1 - e^(-i/5).
  const auto history = curve(100, [](double i) { return 1 + std::exp(-i / 5); });
  for (const StopOptions options : {StopOptions{4, 0.01}, StopOptions{2, 0.02}}) {
    const auto p = static_cast<double>(options.patience);
    int expected = 0;
    while (std::exp(-expected / 5.) * (std::exp(p / 5) - 1) >
           options.min_gain * (1 - std::exp(-expected / 5.)))
      ++expected;
    ASSERT_EQ(stops_at(history, options), static_cast<size_t>(expected));
    // What is missed by stopping there is the tail, below 5 % of all that there was to gain.
    EXPECT_LT(std::exp(-expected / 5.), 0.05);
  }
}

TEST(EarlyStop, ARisingLossStopsAfterThePatienceAndNamesTheBest) {
  const auto history = curve(40, [](double i) { return 1 + 0.001 * (i - 8) * (i - 8); });
  const auto at = stops_at(history);
  ASSERT_TRUE(at.has_value());
  const StopAdvice advice = early_stop(std::span(history).first(*at + 1), {});
  EXPECT_EQ(advice.best, 8u);
  EXPECT_EQ(*at, 8u + static_cast<size_t>(StopOptions{}.patience));
  EXPECT_THAT(advice.reason, HasSubstr("rises"));
  EXPECT_THAT(advice.reason, HasSubstr("after step 80"));
}

TEST(EarlyStop, ASteadyFallNeverStops) {
  EXPECT_EQ(stops_at(curve(200, [](double i) { return 300 - i; })), std::nullopt);
}

TEST(EarlyStop, ASpikeThatComesDownAgainIsWaitedOut) {
  // At 8.5 the last four have brought nothing, but their line falls.
  const std::vector<double> losses{10, 9, 8, 12, 11, 10, 8.5, 7, 6, 5, 4};
  const auto at = [&](double i) { return losses[static_cast<size_t>(i)]; };
  EXPECT_EQ(stops_at(curve(static_cast<int>(losses.size()), at), {4, 0.01}), std::nullopt);
}

TEST(EarlyStop, ARunThatGainsNothingStopsAndSaysSo) {
  for (const double far : {2., std::numeric_limits<double>::infinity(), std::nan("")}) {
    const auto history = curve(12, [&](double i) { return i == 0 ? 1 : far; });
    const auto at = stops_at(history);
    ASSERT_EQ(at, static_cast<size_t>(StopOptions{}.patience));
    const StopAdvice advice = early_stop(history, {});
    EXPECT_EQ(advice.best, 0u);
    EXPECT_THAT(advice.reason, HasSubstr("no validation was better than the untrained model"));
  }
}

TEST(EarlyStop, IsAFunctionOfTheHistoryAlone) {
  EXPECT_FALSE(early_stop({}, {}).stop);
  const auto history = curve(30, [](double i) { return 1 + std::exp(-i); });
  EXPECT_EQ(early_stop(history, {}).reason, early_stop(history, {}).reason);
  EXPECT_FALSE(early_stop(std::span(history).first(4), {}).stop);
}

}  // namespace
}  // namespace fluxlora::eval
