// SPDX-License-Identifier: Apache-2.0
#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/hash.h"
#include "data/bucket.h"
#include "data/caption.h"
#include "data/caption_source.h"
#include "data/scan.h"
#include "tensor/buffer.h"

namespace fluxlora {

namespace {

/// FLUX.1's latents are an eighth of the picture, packed in pairs: sides are multiples of 16.
constexpr int64_t kSideStep = 16;
constexpr int64_t kMaxSide = 8192;
constexpr size_t kMostCaptions = 256;  // of a picture

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

void check_buckets(const DatasetOptions& options, Findings& findings) {
  check_side(options.bucket_step, "dataset.bucket_step", findings);
  const auto check = [&](int64_t side, const std::string& where) {
    if (side >= options.bucket_step) return;
    findings.problems.push_back(
        bad_input(where, fmt::format("resolution {} is below dataset.bucket_step", side),
                  fmt::format("give {} or more, or a smaller step", options.bucket_step)));
  };
  check(options.resolution, "dataset.resolution");
  for (const FolderOptions& folder : options.folders)
    for (const int64_t side : folder.resolutions) check(side, folder.path.string());
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
  if (options.buckets) check_buckets(options, findings);
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

/// The captions of a folder's pictures as they are written.
CaptionSource caption_source(const FolderOptions& folder, Work& work) {
  try {
    return CaptionSource(folder.path);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::internal) throw;
    work.findings.problems.push_back(error);
    return CaptionSource();
  }
}

std::vector<std::string> written_captions(const Checked& picture, const FolderOptions& folder,
                                          const CaptionSource& source, Work& work) {
  try {
    if (auto own = source.captions(picture.path, folder.caption_lines)) return *own;
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::internal) throw;
    work.findings.problems.push_back(error);
  }
  return {collapse_spaces(folder.caption)};
}

/// With the trigger word and in all their forms, each once.
std::vector<std::string> captions_of(const Checked& picture, const FolderOptions& folder,
                                     const CaptionSource& source, Work& work) {
  const std::string& own = folder.trigger ? *folder.trigger : work.trigger;
  const std::string trigger = folder.regularisation ? "" : own;
  const FormOptions how{folder.caption_lines, folder.shuffle_tags, folder.keep_tags, trigger,
                        folder.caption_forms};
  std::vector<std::string> captions;
  for (const std::string& text : written_captions(picture, folder, source, work)) {
    if (folder.regularisation && !work.trigger.empty() && contains_word(text, work.trigger)) {
      work.findings.warnings.push_back(
          fmt::format("{}: a regularisation picture whose caption has the trigger word \"{}\"",
                      picture.path.string(), work.trigger));
    }
    for (std::string& form : caption_forms(put_trigger(text, trigger), how))
      if (std::find(captions.begin(), captions.end(), form) == captions.end())
        captions.push_back(std::move(form));
  }
  if (captions.size() > kMostCaptions) {
    work.findings.problems.push_back(bad_input(
        picture.path.string(),
        fmt::format("has {} captions, more than {}", captions.size(), kMostCaptions),
        "give it fewer lines, or the folder fewer caption_forms: each takes its place in memory"));
  }
  return captions;
}

/// A mask before it is known to be of use.
struct Found {
  MaskSource source;
  Mask mask;
};

/// The picture's mask; nothing, with a warning, when it has none. Throws Error.
std::optional<Found> find_mask(const Checked& picture, const FolderOptions& folder, Work& work) {
  if (!folder.alpha_mask && folder.mask.empty()) return std::nullopt;
  const auto without = [&](const char* what) {
    work.findings.warnings.push_back(
        fmt::format("{}: {}, so all of it is trained", picture.path.string(), what));
    return std::nullopt;
  };
  Found found;
  found.source.unmasked_weight = folder.unmasked_weight;
  found.source.alpha = folder.alpha_mask;
  if (folder.alpha_mask) {
    std::optional<Mask> alpha = read_alpha(picture.path);
    if (!alpha) return without("has no transparency");
    found.mask = std::move(*alpha);
    found.source.path = picture.path;
    found.source.hash = picture.hash;
    return found;
  }
  const auto path = mask_file(folder.mask, picture.path);
  if (!path) return without("has no mask");
  found.mask = read_mask(*path);
  if (const Size size{found.mask.width, found.mask.height}; size != picture.source) {
    throw bad_input(path->string(),
                    fmt::format("has {}x{} pixels, its picture {}x{}", size.width, size.height,
                                picture.source.width, picture.source.height),
                    "make the mask from the picture itself, at its full size");
  }
  found.source.path = *path;
  found.source.hash = sha256_of_file(*path);
  return found;
}

/// A problem when the mask leaves nothing of the box.
void check_mask(const Found& found, const Box& box, Findings& findings) {
  HostTensor all(DType::f32, {1, 1});
  average(all.view, found.mask, box);
  if (*all.view.as<float>() > 0 || found.source.unmasked_weight > 0) return;
  findings.problems.push_back(
      bad_input(found.source.path.string(),
                found.source.alpha ? "is transparent where it is trained, so nothing counts"
                                   : "is a mask that leaves nothing of the trained part",
                "white counts and black does not; remove it, or set unmasked_weight above 0"));
}

/// The training sizes of a picture, ascending; those that would enlarge it too much are left out,
/// and it is a problem when all would.
std::set<Size> sizes_of(const Checked& picture, const FolderOptions& folder, Work& work) {
  const DatasetOptions& o = work.options;
  std::set<int64_t> sides(folder.resolutions.begin(), folder.resolutions.end());
  if (sides.empty()) sides.insert(o.resolution);
  std::set<Size> sizes;
  std::vector<std::string> too_large;
  for (const int64_t side : sides) {
    const int square = static_cast<int>(side);
    const Size size =
        o.buckets ? nearest_bucket(picture.source, side, o.bucket_step) : Size{square, square};
    if (enlargement(centre_box(picture.source, size), size) <= o.max_upscale) {
      sizes.insert(size);
      continue;
    }
    const std::string text = fmt::format("{}x{}", size.width, size.height);
    const auto least = [&](int pixels) { return std::ceil(pixels / o.max_upscale); };
    if (too_large.empty() && sizes.empty()) {
      work.findings.problems.push_back(
          bad_input(picture.path.string(),
                    fmt::format("has {}x{} pixels, too few to train at {}", picture.source.width,
                                picture.source.height, text),
                    fmt::format("remove it or use a picture of at least {}x{} pixels",
                                least(size.width), least(size.height))));
    }
    too_large.push_back(text);
  }
  if (!sizes.empty() && !too_large.empty()) {
    work.findings.notes.push_back(fmt::format("{}: is too small to be trained at {}",
                                              picture.path.string(), fmt::join(too_large, ", ")));
  }
  return sizes;
}

void add_examples(const Checked& picture, int index, const CaptionSource& source, Work& work) {
  const FolderOptions& folder = work.options.folders[static_cast<size_t>(index)];
  Example example;
  example.path = picture.path;
  example.hash = picture.hash;
  example.captions = captions_of(picture, folder, source, work);
  example.caption_dropout = folder.caption_dropout;
  example.flip = folder.flip;
  example.folder = index;
  example.repeats = folder.repeats;
  example.regularisation = folder.regularisation;
  example.weight = folder.weight;
  example.source = picture.source;
  std::optional<Found> found;
  try {
    found = find_mask(picture, folder, work);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::internal) throw;
    work.findings.problems.push_back(error);
  }
  if (found) example.mask = found->source;
  for (const Size& size : sizes_of(picture, folder, work)) {
    example.size = size;
    example.box = centre_box(picture.source, size);
    if (found) check_mask(*found, example.box, work.findings);
    work.dataset.examples.push_back(example);
  }
}

std::string dataset_hash(const std::vector<Example>& examples) {
  Sha256 hash;
  for (const Example& e : examples) {
    hash.update(e.hash);
    for (const std::string& caption : e.captions)
      hash.update(fmt::format(" {}:", caption.size())).update(caption);
    hash.update(fmt::format(" {} {} {} {} {} {} {} {} {} {}\n", e.folder, e.repeats,
                            e.regularisation, e.weight, e.box.x, e.box.y, e.box.width, e.box.height,
                            e.size.width, e.size.height));
    if (e.flip) hash.update("mirrored\n");
    if (e.caption_dropout) hash.update(fmt::format("dropout {}\n", *e.caption_dropout));
    if (e.mask) {
      hash.update(
          fmt::format("mask {} {} {}\n", e.mask->alpha, e.mask->unmasked_weight, e.mask->hash));
    }
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
    const CaptionSource source = caption_source(options.folders[i], work);
    check_listed(options.folders[i].path, source.listed(), listing, findings);
    for (const Checked& picture : check_pictures(listing.pictures, findings)) {
      add_examples(picture, static_cast<int>(i), source, work);
    }
  }
  throw_problems(findings.problems);
  dataset.hash = dataset_hash(dataset.examples);
  dataset.warnings = std::move(findings.warnings);
  dataset.notes = std::move(findings.notes);
  return dataset;
}

Picture load_pixels(const Example& example, bool mirrored) {
  Picture picture = resize(read_picture(example.path), example.box, example.size);
  if (!mirrored) return picture;
  const auto pixel = [&](int64_t row, int64_t column) {
    return picture.rgb.begin() + (row * picture.width + column) * 3;
  };
  for (int64_t row = 0; row < picture.height; ++row)
    for (int64_t left = 0, right = picture.width - 1; left < right; ++left, --right)
      std::swap_ranges(pixel(row, left), pixel(row, left) + 3, pixel(row, right));
  return picture;
}

void load_mask(const Tensor& y, const Example& example, bool mirrored) {
  float* const counts = y.as<float>();
  std::fill_n(counts, y.size(), 1.0f);
  if (!example.mask) return;
  const MaskSource& source = *example.mask;
  const auto mask = source.alpha ? read_alpha(source.path) : read_mask(source.path);
  if (!mask || mask->width != example.source.width || mask->height != example.source.height) {
    throw bad_input(source.path.string(), "was changed while it was read",
                    "start again, and leave the pictures alone meanwhile");
  }
  average(y, *mask, example.box);
  const auto least = static_cast<float>(source.unmasked_weight);
  for (int64_t row = 0; mirrored && row < y.dim(0); ++row)
    std::reverse(counts + row * y.dim(1), counts + (row + 1) * y.dim(1));
  std::transform(counts, counts + y.size(), counts,
                 [&](float m) { return least + (1 - least) * m; });
}

}  // namespace fluxlora
