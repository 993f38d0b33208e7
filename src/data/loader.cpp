// SPDX-License-Identifier: Apache-2.0
#include "data/loader.h"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "base/error.h"
#include "base/philox.h"

namespace fluxlora {

namespace {

void check_options(const LoaderOptions& o) {
  if (o.batch_size < 1) {
    throw bad_input("train.batch_size", fmt::format("is {}", o.batch_size), "give 1 or more");
  }
  if (o.accumulation < 1) {
    throw bad_input("train.accumulation", fmt::format("is {}", o.accumulation), "give 1 or more");
  }
  if (!(o.caption_dropout >= 0 && o.caption_dropout <= 1)) {
    throw bad_input("train.caption_dropout", fmt::format("is {}", o.caption_dropout),
                    "give a share from 0 to 1, such as 0.05");
  }
}

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

Loader::Loader(const std::vector<Example>& examples, const LoaderOptions& options)
    : options_(options) {
  check_options(options);
  CHECK(!examples.empty(), "Loader: no example");
  std::map<Size, std::vector<int64_t>> by_size;
  for (size_t i = 0; i < examples.size(); ++i) {
    std::vector<int64_t>& entries = by_size[examples[i].size];
    entries.insert(entries.end(), static_cast<size_t>(examples[i].repeats),
                   static_cast<int64_t>(i));
    traits_.push_back({static_cast<uint32_t>(examples[i].captions.size()), examples[i].flip,
                       examples[i].caption_dropout.value_or(options.caption_dropout)});
  }
  for (auto& [size, entries] : by_size) buckets_.push_back({size, std::move(entries)});
}

int64_t Loader::batches_per_epoch() const {
  int64_t count = 0;
  for (const Bucket& bucket : buckets_) {
    count += ceil_div(static_cast<int64_t>(bucket.entries.size()), options_.batch_size);
  }
  return count;
}

int64_t Loader::examples_per_epoch() const {
  int64_t count = 0;
  for (const Bucket& bucket : buckets_) count += static_cast<int64_t>(bucket.entries.size());
  return count;
}

std::vector<BatchShape> Loader::shapes() const {
  std::set<BatchShape> shapes;
  for (const Bucket& bucket : buckets_) {
    const int64_t count = static_cast<int64_t>(bucket.entries.size());
    if (count >= options_.batch_size) shapes.insert({bucket.size, options_.batch_size});
    if (count % options_.batch_size) shapes.insert({bucket.size, count % options_.batch_size});
  }
  return {shapes.begin(), shapes.end()};
}

/// Shuffles each size, cuts it into batches, shuffles the batches.
std::vector<std::vector<int64_t>> Loader::epoch(int64_t index) const {
  Philox random(options_.seed, Draw::order, static_cast<uint32_t>(index));
  std::vector<std::vector<int64_t>> batches;
  for (const Bucket& bucket : buckets_) {
    std::vector<int64_t> entries = bucket.entries;
    random.shuffle(entries);
    for (size_t first = 0; first < entries.size(); first += options_.batch_size) {
      const size_t last = std::min(entries.size(), first + options_.batch_size);
      batches.emplace_back(entries.begin() + static_cast<ptrdiff_t>(first),
                           entries.begin() + static_cast<ptrdiff_t>(last));
    }
  }
  random.shuffle(batches);
  return batches;
}

std::vector<Pick> Loader::batch(int64_t step, int64_t micro_step) const {
  CHECK(step >= 0 && micro_step >= 0 && micro_step < options_.accumulation, "Loader::batch: step");
  const int64_t number = step * options_.accumulation + micro_step;
  const int64_t per_epoch = batches_per_epoch();
  const auto batches = epoch(number / per_epoch);

  std::vector<Pick> picks;
  for (const int64_t example : batches[static_cast<size_t>(number % per_epoch)]) {
    const int64_t place = micro_step * options_.batch_size + static_cast<int64_t>(picks.size());
    const auto random = [&](Draw purpose) {
      return Philox(options_.seed, purpose, static_cast<uint32_t>(step),
                    static_cast<uint32_t>(place));
    };
    const Traits& traits = traits_[static_cast<size_t>(example)];
    Pick pick{example, random(Draw::dropout).uniform() < traits.caption_dropout};
    Philox augment = random(Draw::augment);
    pick.caption = augment.below(std::max(1u, traits.captions));
    pick.mirrored = traits.flip && augment.below(2) == 1;
    picks.push_back(pick);
  }
  return picks;
}

}  // namespace fluxlora
