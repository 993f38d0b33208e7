// SPDX-License-Identifier: Apache-2.0
// Edit distances and the name that was meant.
#include "base/nearest.h"

#include <vector>

#include <gtest/gtest.h>

namespace fluxlora {
namespace {

TEST(EditDistance, CountsSlipsOfTheHand) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("rank", "rank"), 0u);
  EXPECT_EQ(edit_distance("rank", ""), 4u);
  EXPECT_EQ(edit_distance("", "rank"), 4u);
  EXPECT_EQ(edit_distance("rnk", "rank"), 1u);
  EXPECT_EQ(edit_distance("rrank", "rank"), 1u);
  EXPECT_EQ(edit_distance("renk", "rank"), 1u);
  EXPECT_EQ(edit_distance("arnk", "rank"), 1u) << "two neighbours swapped are one slip";
  EXPECT_EQ(edit_distance("Rank", "rANK"), 0u) << "upper and lower case are alike";
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
}

TEST(NearestName, FindsWhatWasMeantAndNothingFarAway) {
  const std::vector<std::string> names{"learning_rate", "rank", "alpha", "seed", "steps"};
  EXPECT_EQ(nearest_name("learning_rat", names), "learning_rate");
  EXPECT_EQ(nearest_name("stesp", names), "steps");
  EXPECT_EQ(nearest_name("alhpa", names), "alpha");
  EXPECT_EQ(nearest_name("seeds", names), "seed");
  EXPECT_EQ(nearest_name("optimizer", names), std::nullopt);
  EXPECT_EQ(nearest_name("", names), std::nullopt);
  EXPECT_EQ(nearest_name("x", {}), std::nullopt);
  EXPECT_EQ(nearest_name(std::string(100'000, 'a'), names), std::nullopt);
}

}  // namespace
}  // namespace fluxlora
