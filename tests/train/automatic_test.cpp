// SPDX-License-Identifier: Apache-2.0
// Settings that say "auto": the measure in closed form, the choice as a table.
#include "train/automatic.h"

#include "train/run_fixture.h"

namespace fluxlora::train {
namespace {

using ::testing::HasSubstr;

Picture flat(uint8_t value) {
  return {16, 24, std::vector<uint8_t>(16 * 24 * 3, value)};
}

TEST(Automatic, VarietyInClosedForm) {
  EXPECT_EQ(variety({}), 0);
  EXPECT_NEAR(variety({flat(7), flat(7)}), 0, 1e-12);
  EXPECT_NEAR(variety({flat(0), flat(255)}), 1, 1e-12);
  EXPECT_NEAR(variety({flat(0), flat(51), flat(102)}), (0.2 + 0.4 + 0.2) / 3, 1e-12);
  Picture half = flat(0);  // white below: half of the cells differ by 1
  std::fill(half.rgb.begin() + 16 * 12 * 3, half.rgb.end(), uint8_t{255});
  EXPECT_NEAR(variety({half, flat(0)}), std::sqrt(0.5), 1e-12);
}

TEST(Automatic, StepsGrowWithThePicturesAndShrinkWithTheBatch) {
  for (const auto& [pictures, batch, steps] :
       {std::tuple{12, 1, 1200}, {20, 1, 2000}, {20, 4, 500}, {3, 1, 400}, {900, 1, 4000}}) {
    RunOptions o;
    o.train.steps = kAutomatic;
    o.train.batch_size = batch;
    const auto reasons = choose_automatic(o, {pictures, 0.15});
    EXPECT_EQ(o.train.steps, steps) << pictures;
    ASSERT_EQ(reasons.size(), 1u);
    EXPECT_THAT(reasons[0], HasSubstr(fmt::format("{} pictures", pictures)));
    EXPECT_EQ(o.lora.rank, 16);  // was not automatic
  }
}

TEST(Automatic, RankGrowsWithNumberAndVariety) {
  const auto rank = [](int64_t pictures, double variety, const std::string& kind) {
    RunOptions o;
    o.subject.kind = kind;
    o.lora.rank = kAutomatic;
    choose_automatic(o, {pictures, variety});
    EXPECT_EQ(o.lora.alpha, static_cast<double>(o.lora.rank));
    return o.lora.rank;
  };
  EXPECT_EQ(rank(5, 0.3, "subject"), 8);
  EXPECT_EQ(rank(25, 0.02, "subject"), 8);
  EXPECT_EQ(rank(12, 0.3, "subject"), 16);
  EXPECT_EQ(rank(25, 0.3, "subject"), 32);
  EXPECT_EQ(rank(12, 0.15, "style"), 32);
}

TEST(Automatic, LooksAtThePicturesOnlyWhenAsked) {
  const TemporaryFolder folder;
  RunOptions options = small_options(folder.path(), "run");  // whose pictures are not there
  EXPECT_TRUE(settle_automatic(options).empty());
  paint_dataset(folder / "pictures", 6);
  options.train.steps = options.lora.rank = kAutomatic;
  options.validate.every = 10;
  EXPECT_EQ(settle_automatic(options).size(), 2u);
  EXPECT_EQ(options.train.steps, 400);
  EXPECT_EQ(options.lora.rank, 8);  // four pictures are left to train
}

}  // namespace
}  // namespace fluxlora::train
