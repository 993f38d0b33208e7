// SPDX-License-Identifier: Apache-2.0
// The search for text on tables of probabilities, against all texts that there are. Against
// transformers' own search: tests/interop/test_captions.py.
#include "caption/generate.h"

#include <cmath>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/philox.h"

namespace fluxlora::caption {
namespace {

using testing::ElementsAre;
using Sequence = std::vector<int32_t>;

constexpr int32_t kVocabulary = 4, kStart = 0, kEnd = 3;

/// Logits that depend on the whole sequence, by counted random numbers.
std::vector<float> logits_of(const Sequence& ids) {
  uint32_t name = 1;
  for (const int32_t id : ids) name = name * 7 + static_cast<uint32_t>(id);
  Philox random(11, Draw::sample, name);
  std::vector<float> logits(kVocabulary);
  for (float& v : logits) v = static_cast<float>(2 * random.normal());
  return logits;
}

std::vector<float> next(const std::vector<Sequence>& sequences) {
  std::vector<float> all;
  for (const Sequence& ids : sequences)
    for (const float v : logits_of(ids)) all.push_back(v);
  return all;
}

/// Every text and what it counts: its log-probability through its length.
void enumerate(const Sequence& ids, double score, size_t most, std::map<Sequence, double>& all) {
  const std::vector<float> logits = logits_of(ids);
  double sum = 0;
  for (const float v : logits) sum += std::exp(double(v));
  for (int32_t t = 0; t < kVocabulary; ++t) {
    Sequence longer = ids;
    longer.push_back(t);
    const double now = score + logits[static_cast<size_t>(t)] - std::log(sum);
    if (t == kEnd || ids.size() == most)
      all[longer] = now / static_cast<double>(ids.size());
    else
      enumerate(longer, now, most, all);
  }
}

GenerateOptions options(int64_t beams, int64_t tokens) {
  GenerateOptions o;
  o.num_beams = beams;
  o.max_tokens = tokens;
  o.start = kStart;
  o.end = kEnd;
  return o;
}

TEST(Generate, AWideBeamFindsTheBestOfAllTexts) {
  std::map<Sequence, double> all;
  enumerate({kStart}, 0, 4, all);
  const auto best = std::max_element(
      all.begin(), all.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  // More beams than there are texts: nothing is left out.
  EXPECT_EQ(generate(options(static_cast<int64_t>(all.size()) + 1, 4), next), best->first);
}

TEST(Generate, OneBeamIsGreedy) {
  Sequence ids{kStart};
  while (ids.size() <= 12 && (ids.size() == 1 || ids.back() != kEnd)) {
    const std::vector<float> logits = logits_of(ids);
    ids.push_back(
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  EXPECT_EQ(generate(options(1, 12), next), ids);
}

TEST(Generate, TokensAreForcedAndRepeatsForbidden) {
  const NextLogits always_one = [](const std::vector<Sequence>& sequences) {
    std::vector<float> all;
    for (size_t i = 0; i < sequences.size(); ++i) all.insert(all.end(), {1, 9, 2, 0});
    return all;
  };
  GenerateOptions o = options(1, 5);
  EXPECT_THAT(generate(o, always_one), ElementsAre(0, 1, 1, 1, 1, 1));
  o.forced_first = 2;
  o.forced_last = kEnd;
  EXPECT_THAT(generate(o, always_one), ElementsAre(0, 2, 1, 1, 1, 3));
  o.no_repeat_ngram = 2;  // "1 1" comes once
  EXPECT_THAT(generate(o, always_one), ElementsAre(0, 2, 1, 1, 2, 3));
}

}  // namespace
}  // namespace fluxlora::caption
