// SPDX-License-Identifier: Apache-2.0
#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include <fmt/format.h>

#include "base/error.h"
#include "base/hash.h"
#include "data/caption.h"
#include "data/scan.h"

namespace fluxlora {

namespace {

/// FLUX.1's latents are an eighth of the picture, packed in pairs: sides are multiples of 16.
constexpr int64_t kSideStep = 16;
constexpr int64_t kMaxSide = 8192;
constexpr size_t kFewPictures = 10, kManyPictures = 30;

void check_side(int64_t side, const std::string& where, Findings& findings) {
  if (side >= kSideStep && side <= kMaxSide && side % kSideStep == 0) return;
  const int64_t inside = std::clamp(side, kSideStep, kMaxSide);
  const int64_t near = (inside + kSideStep / 2) / kSideStep * kSideStep;
  findings.problems.push_back(
      bad_input(where,
                fmt::format("resolution {} is not a multiple of {} from {} to {}", side, kSideStep,
                            kSideStep, kMaxSide),
                fmt::format("{} is the nearest that works", near)));
}

void check_options(const DatasetOptions& options, Findings& findings) {
  if (options.folders.empty()) {
    findings.problems.push_back(
        bad_input("dataset", "names no folder", "set dataset.path to the folder of your pictures"));
    return;
  }
  check_side(options.resolution, "dataset.resolution", findings);
  if (!(options.max_upscale >= 1)) {
    findings.problems.push_back(bad_input("dataset.max_upscale",
                                          fmt::format("is {}", options.max_upscale),
                                          "give a number of 1 or more"));
  }
  for (const FolderOptions& folder : options.folders) {
    check_folder_options(folder, findings);
    for (const int64_t side : folder.resolutions) check_side(side, folder.path.string(), findings);
  }
  const bool learns = std::any_of(options.folders.begin(), options.folders.end(),
                                  [](const FolderOptions& f) { return !f.regularisation; });
  if (!learns) {
    findings.problems.push_back(
        bad_input("dataset.folders", "all folders are regularisation, so there is nothing to learn",
                  "name the folder of the subject's pictures too"));
  }
}

/// One folder on its way to examples.
struct Work {
  const DatasetOptions& options;
  const std::string& trigger;
  Dataset& dataset;
  Findings& findings;
};

std::string caption_of(const Checked& picture, const FolderOptions& folder, Work& work) {
  std::string text = collapse_spaces(folder.caption);
  if (const auto file = caption_file(picture.path)) {
    try {
      text = read_caption(*file);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::internal) throw;
      work.findings.problems.push_back(error);
    }
  }
  const std::string& own = folder.trigger ? *folder.trigger : work.trigger;
  if (!folder.regularisation) return put_trigger(text, own);
  if (!work.trigger.empty() && contains_word(text, work.trigger)) {
    work.findings.warnings.push_back(
        fmt::format("{}: a regularisation picture whose caption has the trigger word \"{}\"",
                    picture.path.string(), work.trigger));
  }
  return put_trigger(text, "");
}

void add_examples(const Checked& picture, int index, Work& work) {
  const FolderOptions& folder = work.options.folders[static_cast<size_t>(index)];
  Example example;
  example.path = picture.path;
  example.hash = picture.hash;
  example.caption = caption_of(picture, folder, work);
  example.folder = index;
  example.repeats = folder.repeats;
  example.regularisation = folder.regularisation;
  example.weight = folder.weight;
  example.source = picture.source;
  std::set<int64_t> sides(folder.resolutions.begin(), folder.resolutions.end());
  if (sides.empty()) sides.insert(work.options.resolution);
  for (const int64_t side : sides) {
    example.size = {static_cast<int>(side), static_cast<int>(side)};
    example.box = centre_box(picture.source, example.size);
    const double factor = enlargement(example.box, example.size);
    const std::string size = fmt::format("{}x{}", picture.source.width, picture.source.height);
    if (factor > work.options.max_upscale) {
      const auto least = static_cast<int64_t>(std::ceil(double(side) / work.options.max_upscale));
      work.findings.problems.push_back(bad_input(
          picture.path.string(),
          fmt::format("has {} pixels, too few to train at {}x{}", size, side, side),
          fmt::format("remove it or use a picture of at least {}x{} pixels", least, least)));
    } else if (factor > 1) {
      work.findings.warnings.push_back(
          fmt::format("{}: has {} pixels and is enlarged {:.1f} times to {}x{}",
                      picture.path.string(), size, factor, side, side));
    }
    work.dataset.examples.push_back(example);
  }
}

/// Warnings about all pictures together.
void judge_pictures(const std::vector<Example>& examples, Findings& findings) {
  std::map<std::string, std::string> subject;  // hash -> first path
  std::set<std::string> seen;
  for (const Example& example : examples) {
    if (example.regularisation || !seen.insert(example.path.string()).second) continue;
    const auto [first, is_new] = subject.emplace(example.hash, example.path.string());
    if (!is_new) {
      findings.warnings.push_back(example.path.string() + ": is the same picture as " +
                                  first->second);
    }
  }
  if (seen.size() < kFewPictures) {
    findings.warnings.push_back(
        fmt::format("{} picture{} of the subject: with fewer than {} the LoRA tends to repeat them",
                    seen.size(), seen.size() == 1 ? "" : "s", kFewPictures));
  } else if (seen.size() > kManyPictures) {
    findings.warnings.push_back(
        fmt::format("{} pictures of the subject: more than {} rarely help, choose the best",
                    seen.size(), kManyPictures));
  }
}

std::string dataset_hash(const std::vector<Example>& examples) {
  Sha256 hash;
  for (const Example& e : examples) {
    hash.update(fmt::format("{} {}:", e.hash, e.caption.size())).update(e.caption);
    hash.update(fmt::format(" {} {} {} {} {} {} {} {} {} {}\n", e.folder, e.repeats,
                            e.regularisation, e.weight, e.box.x, e.box.y, e.box.width, e.box.height,
                            e.size.width, e.size.height));
  }
  return hash.hex();
}

}  // namespace

Dataset scan(const DatasetOptions& options, const std::string& trigger) {
  Dataset dataset;
  Findings findings;
  check_options(options, findings);
  throw_problems(findings.problems);

  Work work{options, trigger, dataset, findings};
  for (size_t i = 0; i < options.folders.size(); ++i) {
    const Listing listing = list_folder(options.folders[i], findings);
    for (const Checked& picture : check_pictures(listing.pictures, findings)) {
      add_examples(picture, static_cast<int>(i), work);
    }
  }
  throw_problems(findings.problems);
  judge_pictures(dataset.examples, findings);
  dataset.hash = dataset_hash(dataset.examples);
  dataset.warnings = std::move(findings.warnings);
  dataset.notes = std::move(findings.notes);
  return dataset;
}

Picture load_pixels(const Example& example) {
  return resize(read_picture(example.path), example.box, example.size);
}

}  // namespace fluxlora
