// SPDX-License-Identifier: Apache-2.0
#include "eval/held_out.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "base/error.h"
#include "base/philox.h"

namespace fluxlora::eval {
namespace {

constexpr int64_t kFewest = 4, kFew = 12, kShare = 6, kMost = 5, kLeft = 2;

}  // namespace

int64_t held_out_count(int64_t pictures) {
  if (pictures < kFewest) return 0;
  if (pictures < kFew) return 2;
  return std::min(pictures / kShare, kMost);
}

std::vector<bool> choose_held_out(const std::vector<Example>& examples, int64_t count,
                                  uint64_t seed) {
  std::vector<std::filesystem::path> pictures;
  for (const Example& example : examples)
    if (!example.regularisation &&
        std::find(pictures.begin(), pictures.end(), example.path) == pictures.end())
      pictures.push_back(example.path);
  const auto size = static_cast<int64_t>(pictures.size());
  if (count < 0) count = held_out_count(size);
  if (count > 0 && count > size - kLeft)
    throw bad_input("validate.held_out",
                    fmt::format("is {}, and there are {} pictures of the subject", count, size),
                    fmt::format("leave at least {} to train, or write held_out = \"auto\"", kLeft));

  std::set<std::filesystem::path> chosen;
  Philox random(seed, Draw::held_out);
  for (int64_t left = count; left > 0; --left) {
    const auto at = pictures.begin() + random.below(static_cast<uint32_t>(pictures.size()));
    chosen.insert(*at);
    pictures.erase(at);
  }
  std::vector<bool> held_out;
  for (const Example& example : examples)
    held_out.push_back(!example.regularisation && chosen.contains(example.path));
  return held_out;
}

}  // namespace fluxlora::eval
