// SPDX-License-Identifier: Apache-2.0
// The order of examples: complete, of one size a batch, and a function of seed and step alone.
#include "data/loader.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include <gtest/gtest.h>

#include "base/error.h"

namespace fluxlora {
namespace {

std::vector<Example> examples_of(const std::vector<std::pair<int, int64_t>>& sizes_and_repeats) {
  std::vector<Example> examples;
  for (const auto& [side, repeats] : sizes_and_repeats) {
    Example example;
    example.size = {side, side};
    example.repeats = repeats;
    examples.push_back(example);
  }
  return examples;
}

const std::vector<Example> kMixed = examples_of(
    {{128, 1}, {128, 3}, {64, 2}, {128, 1}, {64, 1}, {192, 1}, {128, 2}, {64, 4}, {128, 1}});

LoaderOptions options(int64_t batch_size, int64_t accumulation = 1, uint64_t seed = 7) {
  LoaderOptions options;
  options.seed = seed;
  options.batch_size = batch_size;
  options.accumulation = accumulation;
  return options;
}

std::vector<int64_t> order(const Loader& loader, int64_t steps) {
  std::vector<int64_t> order;
  for (int64_t step = 0; step < steps; ++step) {
    for (const Pick& pick : loader.batch(step, 0)) order.push_back(pick.example);
  }
  return order;
}

TEST(Loader, an_epoch_visits_each_example_as_often_as_it_repeats) {
  for (const int64_t batch_size : {1, 2, 3, 5, 100}) {
    const Loader loader(kMixed, options(batch_size));
    EXPECT_EQ(loader.examples_per_epoch(), 16);
    const int64_t steps = loader.batches_per_epoch();
    for (int64_t epoch = 0; epoch < 4; ++epoch) {
      std::map<int64_t, int64_t> visits;
      for (int64_t step = 0; step < steps; ++step) {
        for (const Pick& pick : loader.batch(epoch * steps + step, 0)) ++visits[pick.example];
      }
      for (size_t i = 0; i < kMixed.size(); ++i) {
        EXPECT_EQ(visits[static_cast<int64_t>(i)], kMixed[i].repeats)
            << "batch size " << batch_size << " epoch " << epoch << " example " << i;
      }
    }
  }
}

TEST(Loader, a_batch_has_one_size_and_its_shape_was_announced) {
  for (const int64_t batch_size : {1, 2, 3, 4, 9}) {
    const Loader loader(kMixed, options(batch_size));
    const std::vector<BatchShape> announced = loader.shapes();
    std::set<BatchShape> seen;
    for (int64_t step = 0; step < 3 * loader.batches_per_epoch(); ++step) {
      const std::vector<Pick> picks = loader.batch(step, 0);
      ASSERT_FALSE(picks.empty());
      const Size size = kMixed[static_cast<size_t>(picks[0].example)].size;
      for (const Pick& pick : picks)
        ASSERT_EQ(kMixed[static_cast<size_t>(pick.example)].size, size);
      seen.insert({size, static_cast<int64_t>(picks.size())});
    }
    EXPECT_EQ(std::vector<BatchShape>(seen.begin(), seen.end()), announced) << batch_size;
  }
}

TEST(Loader, only_what_is_left_over_of_a_size_forms_a_smaller_batch) {
  const Loader loader(kMixed, options(3));
  // 8 of 128: 3+3+2; 7 of 64: 3+3+1; 1 of 192.
  EXPECT_EQ(loader.batches_per_epoch(), 7);
  const std::vector<BatchShape> expected{
      {{64, 64}, 1}, {{64, 64}, 3}, {{128, 128}, 2}, {{128, 128}, 3}, {{192, 192}, 1}};
  EXPECT_EQ(loader.shapes(), expected);
}

TEST(Loader, the_order_depends_on_seed_and_step_alone) {
  const Loader loader(kMixed, options(2)), twin(kMixed, options(2));
  const std::vector<int64_t> forwards = order(loader, 40);
  for (int64_t step = 39; step >= 0; --step) {  // asked in another order, of another object
    const auto a = loader.batch(step, 0), b = twin.batch(step, 0);
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) ASSERT_EQ(a[i].example, b[i].example);
  }
  EXPECT_EQ(order(twin, 40), forwards);
  EXPECT_NE(order(Loader(kMixed, options(2, 1, 8)), 40), forwards);
}

TEST(Loader, epochs_differ_and_are_well_shuffled) {
  // 12 equal examples: over many epochs each place sees each example about equally often.
  const std::vector<Example> equal = examples_of(std::vector<std::pair<int, int64_t>>(12, {64, 1}));
  const Loader loader(equal, options(1));
  std::vector<std::vector<int>> counts(12, std::vector<int>(12, 0));
  const int epochs = 2400;
  const std::vector<int64_t> visited = order(loader, epochs * 12);
  for (size_t i = 0; i < visited.size(); ++i) ++counts[i % 12][static_cast<size_t>(visited[i])];
  // Expected 200 with a deviation of sqrt(2400 / 12 * 11 / 12) = 13.5; 5 of them.
  for (const auto& place : counts) {
    for (const int count : place) EXPECT_NEAR(count, 200, 68);
  }
  EXPECT_NE(std::vector<int64_t>(visited.begin(), visited.begin() + 12),
            std::vector<int64_t>(visited.begin() + 12, visited.begin() + 24));
}

TEST(Loader, micro_steps_walk_through_the_same_row) {
  const Loader plain(kMixed, options(2, 1)), accumulated(kMixed, options(2, 3));
  for (int64_t number = 0; number < 60; ++number) {
    const auto a = plain.batch(number, 0), b = accumulated.batch(number / 3, number % 3);
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i].example, b[i].example);
  }
}

TEST(Loader, captions_are_dropped_at_the_rate_asked_for) {
  LoaderOptions dropping = options(2, 2);
  dropping.caption_dropout = 0.05;
  const Loader loader(kMixed, dropping), keeping(kMixed, options(2, 2));
  int dropped = 0, all = 0;
  std::set<std::pair<int64_t, bool>> by_micro_step;
  for (int64_t step = 0; step < 5000; ++step) {
    for (int64_t micro = 0; micro < 2; ++micro) {
      const auto picks = loader.batch(step, micro), kept = keeping.batch(step, micro);
      for (size_t i = 0; i < picks.size(); ++i) {
        EXPECT_EQ(picks[i].example, kept[i].example);  // dropping does not change the order
        EXPECT_FALSE(kept[i].drop_caption);
        dropped += picks[i].drop_caption;
        ++all;
        by_micro_step.insert({micro, picks[i].drop_caption});
      }
    }
  }
  const double share = double(dropped) / all;
  EXPECT_NEAR(share, 0.05, 5 * std::sqrt(0.05 * 0.95 / all));
  EXPECT_EQ(by_micro_step.size(), 4u);
  dropping.caption_dropout = 1;
  for (const Pick& pick : Loader(kMixed, dropping).batch(3, 1)) EXPECT_TRUE(pick.drop_caption);
}

TEST(Loader, captions_and_sides_are_drawn_evenly) {
  std::vector<Example> examples = examples_of({{64, 1}, {64, 1}});
  examples[0].captions = {"a", "b", "c"};
  examples[0].flip = true;
  examples[1].captions = {"d"};
  const Loader loader(examples, options(2)), twin(examples, options(2));
  std::map<std::pair<int64_t, bool>, int> seen;
  const int steps = 6000;
  for (int64_t step = 0; step < steps; ++step) {
    const auto picks = loader.batch(step, 0), same = twin.batch(step, 0);
    for (size_t i = 0; i < picks.size(); ++i) {
      EXPECT_EQ(picks[i].caption, same[i].caption);
      EXPECT_EQ(picks[i].mirrored, same[i].mirrored);
      if (picks[i].example == 0) ++seen[{picks[i].caption, picks[i].mirrored}];
      if (picks[i].example == 1) {
        EXPECT_EQ(picks[i].caption, 0);
        EXPECT_FALSE(picks[i].mirrored);
      }
    }
  }
  // Six kinds, each expected 1,000 times with a deviation of sqrt(6000 / 6 * 5 / 6) = 29; 5 of
  // them.
  ASSERT_EQ(seen.size(), 6u);
  for (const auto& [kind, count] : seen) EXPECT_NEAR(count, steps / 6, 145);
}

TEST(Loader, an_example_may_have_a_dropout_of_its_own) {
  std::vector<Example> examples = examples_of({{64, 1}, {64, 1}, {64, 1}});
  examples[0].caption_dropout = 0;
  examples[1].caption_dropout = 1;
  LoaderOptions half = options(3);
  half.caption_dropout = 0.5;
  const Loader loader(examples, half);
  int dropped = 0;
  for (int64_t step = 0; step < 1000; ++step)
    for (const Pick& pick : loader.batch(step, 0)) {
      if (pick.example < 2) {
        EXPECT_EQ(pick.drop_caption, pick.example == 1);
      } else {
        dropped += pick.drop_caption;
      }
    }
  EXPECT_NEAR(dropped, 500, 5 * std::sqrt(1000 * 0.25));
}

TEST(Loader, the_first_order_of_a_seed_never_changes) {
  // Recorded: a later version must train a given seed in the same order, or old runs cannot resume.
  const std::vector<Example> five = examples_of(std::vector<std::pair<int, int64_t>>(5, {64, 1}));
  EXPECT_EQ(order(Loader(five, options(1, 1, 42)), 10),
            (std::vector<int64_t>{0, 1, 4, 3, 2, 3, 4, 2, 1, 0}));
}

TEST(Loader, refuses_options_out_of_range) {
  EXPECT_THROW(Loader(kMixed, options(0)), Error);
  EXPECT_THROW(Loader(kMixed, options(1, 0)), Error);
  LoaderOptions wrong = options(1);
  wrong.caption_dropout = 1.5;
  EXPECT_THROW(Loader(kMixed, wrong), Error);
  wrong.caption_dropout = std::nan("");
  EXPECT_THROW(Loader(kMixed, wrong), Error);
}

}  // namespace
}  // namespace fluxlora
