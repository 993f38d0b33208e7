// SPDX-License-Identifier: Apache-2.0
// From folders of pictures to the examples of a run, with a report of everything that is wrong.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/mask.h"
#include "data/resize.h"

namespace fluxlora {

/// One `[[dataset.folders]]` table.
struct FolderOptions {
  std::filesystem::path path;
  int64_t repeats = 1;                 ///< how often each picture comes in an epoch, 1 to 1000
  std::optional<std::string> trigger;  ///< instead of subject.trigger; empty for none
  std::string caption;                 ///< for pictures without one of their own
  /// Each line of a caption file is a caption, and {a|b} in it one of its words.
  bool caption_lines = false;
  bool shuffle_tags = false;              ///< what stands between commas comes in any order
  int64_t keep_tags = 0;                  ///< but the first so many stay in front
  int64_t caption_forms = 8;              ///< that are drawn of a caption at most, 1 to 64
  std::optional<double> caption_dropout;  ///< instead of train.caption_dropout, 0 to 1
  bool flip = false;                      ///< half of the time left and right are exchanged
  bool regularisation = false;            ///< pictures of other things: no trigger word
  int64_t generate = 0;  ///< so many of them are painted by the model (train/generate.h)
  double weight = 1.0;   ///< multiplies the loss, above 0
  std::vector<int64_t> resolutions;  ///< each picture at each of these; empty: dataset.resolution
  std::filesystem::path mask;        ///< folder of masks that are called as the pictures are
  bool alpha_mask = false;           ///< a picture's transparency is its mask
  double unmasked_weight = 0.0;      ///< how much what a mask leaves out counts, 0 to below 1
};

/// The `dataset` table.
struct DatasetOptions {
  std::vector<FolderOptions> folders;
  int64_t resolution = 1024;    ///< side of the square in pixels, a multiple of 16
  bool buckets = false;         ///< rectangles of the picture's shape and the square's area instead
  int64_t bucket_step = 64;     ///< their sides are multiples of this, which is one of 16
  std::filesystem::path cache;  ///< empty: default_cache_folder() of cache.h
  /// A resolution that needs more enlargement than this is left out for a picture; an Error when
  /// none is left.
  double max_upscale = 4.0;
};

/// Where a picture's mask is.
struct MaskSource {
  std::filesystem::path path;  ///< the picture itself with `alpha`
  bool alpha = false;          ///< its transparency
  double unmasked_weight = 0;  ///< FolderOptions
  std::string hash;            ///< SHA-256 of the file
};

/// One picture at one training size.
struct Example {
  std::filesystem::path path;
  std::string hash;  ///< SHA-256 of the file, 64 hex digits
  /// At least one, with the trigger word put in; one of them is drawn each time.
  std::vector<std::string> captions;
  int folder = 0;  ///< index into DatasetOptions::folders
  int64_t repeats = 1;
  bool regularisation = false;
  double weight = 1.0;
  std::optional<double> caption_dropout;  ///< FolderOptions
  bool flip = false;                      ///< FolderOptions
  Size source;                            ///< of the upright picture
  Box box;                                ///< the part of it that is trained
  Size size;                              ///< the training size
  std::optional<MaskSource> mask;         ///< nothing: all of it counts
};

struct Dataset {
  std::vector<Example> examples;  ///< by folder, then by the bytes of the file name, then by size
  std::vector<std::string> warnings;  ///< what is likely to hurt the result, one line each
  std::vector<std::string> notes;     ///< what was left aside, one line each
  std::string hash;                   ///< SHA-256 over what is trained: pictures, captions, weights
};

/// Reads the folders: pictures by their ending (upper or lower case), hidden files left out,
/// and what `prepare` left beside them, folders inside not entered, every picture decoded once so
/// that damage shows before the first step. `trigger` is subject.trigger. All problems are looked
/// for; the first is thrown as Error with the number of the others in its hint: no folder, missing
/// or empty folder, no picture, unreadable or damaged picture, mask or caption, a picture too
/// small, a mask of another size or that leaves nothing, options out of range.
Dataset scan(const DatasetOptions& options, const std::string& trigger);

/// How many pictures lie in the folder, by their names; 0 when there is no such folder.
size_t count_pictures(const std::filesystem::path& folder);

/// Reads an example's picture and makes it the training size; mirrored: left and right exchanged
/// after that.
Picture load_pixels(const Example& example, bool mirrored = false);

/// How much each cell of a grid over the example counts: y (h, w) f32, contiguous, host memory, is
/// u + (1 - u) m of the mask's mean m (average() of mask.h) and u = unmasked_weight; 1 without a
/// mask. `mirrored` as of load_pixels.
void load_mask(const Tensor& y, const Example& example, bool mirrored = false);

}  // namespace fluxlora
