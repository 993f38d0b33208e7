// SPDX-License-Identifier: Apache-2.0
#include "train/automatic.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>

#include "train/validator.h"

namespace fluxlora::train {
namespace {

constexpr int kSide = 8;
using Thumbnail = std::array<double, kSide * kSide * 3>;

constexpr int64_t kViewsOfEach = 100;  // common for 10 to 30 pictures at rates around 1e-4
constexpr int64_t kFewestSteps = 400, kMostSteps = 4000, kRound = 50;
constexpr int64_t kFew = 8, kMany = 20;  // pictures
constexpr double kAlike = 0.08, kVaried = 0.2;

Thumbnail thumbnail(const Picture& picture) {
  Thumbnail sums{};
  std::array<double, kSide * kSide> counts{};
  for (int y = 0; y < picture.height; ++y)
    for (int x = 0; x < picture.width; ++x) {
      const auto cell =
          static_cast<size_t>(y * kSide / picture.height * kSide + x * kSide / picture.width);
      const auto pixel = static_cast<size_t>(y * picture.width + x) * 3;
      ++counts[cell];
      for (size_t c = 0; c < 3; ++c) sums[cell * 3 + c] += picture.rgb[pixel + c] / 255.;
    }
  for (size_t i = 0; i < sums.size(); ++i) sums[i] /= std::max(counts[i / 3], 1.);
  return sums;
}

double distance(const Thumbnail& a, const Thumbnail& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

std::string choose_steps(RunOptions& o, const Collection& collection) {
  const int64_t each = o.train.batch_size * o.train.accumulation;
  const double wanted =
      static_cast<double>(kViewsOfEach * collection.pictures) / static_cast<double>(each);
  o.train.steps = std::clamp(std::lround(wanted / kRound) * kRound, kFewestSteps, kMostSteps);
  return fmt::format(
      "train.steps = {}: {} pictures, each seen about {} times{}", o.train.steps,
      collection.pictures, kViewsOfEach,
      o.validate.every > 0 && o.validate.stop ? "; fewer when the validation loss says so" : "");
}

std::string choose_rank(RunOptions& o, const Collection& collection) {
  std::string reason = "the usual rank for a subject";
  o.lora.rank = 16;
  if (collection.pictures < kFew || collection.variety < kAlike) {
    o.lora.rank = 8;
    reason = "few or like pictures, which a larger adapter would learn by heart";
  } else if (o.subject.kind == "style" ||
             (collection.pictures >= kMany && collection.variety > kVaried)) {
    o.lora.rank = 32;
    reason =
        o.subject.kind == "style" ? "a style shows in everything" : "many pictures that differ";
  }
  o.lora.alpha = static_cast<double>(o.lora.rank);
  return fmt::format("lora.rank = {}: {} ({} pictures, variety {:.2f})", o.lora.rank, reason,
                     collection.pictures, collection.variety);
}

}  // namespace

double variety(const std::vector<Picture>& pictures) {
  std::vector<Thumbnail> thumbnails;
  for (const Picture& picture : pictures) thumbnails.push_back(thumbnail(picture));
  double sum = 0;
  int64_t pairs = 0;
  for (size_t i = 0; i < thumbnails.size(); ++i)
    for (size_t j = 0; j < i; ++j, ++pairs) sum += distance(thumbnails[i], thumbnails[j]);
  return pairs ? sum / static_cast<double>(pairs) : 0;
}

std::vector<std::string> choose_automatic(RunOptions& options, const Collection& collection) {
  std::vector<std::string> reasons;
  if (options.train.steps == kAutomatic) reasons.push_back(choose_steps(options, collection));
  if (options.lora.rank == kAutomatic) reasons.push_back(choose_rank(options, collection));
  return reasons;
}

std::vector<std::string> settle_automatic(RunOptions& options) {
  if (options.train.steps != kAutomatic && options.lora.rank != kAutomatic) return {};
  Dataset dataset = scan(options.dataset, options.subject.trigger);
  const auto trained = static_cast<size_t>(hold_out(dataset, options));
  std::vector<Picture> pictures;
  std::vector<std::filesystem::path> seen;
  for (size_t i = 0; i < trained; ++i) {
    const Example& example = dataset.examples[i];
    if (example.regularisation || std::find(seen.begin(), seen.end(), example.path) != seen.end())
      continue;
    seen.push_back(example.path);
    pictures.push_back(load_pixels(example));
  }
  return choose_automatic(options, {static_cast<int64_t>(pictures.size()), variety(pictures)});
}

}  // namespace fluxlora::train
