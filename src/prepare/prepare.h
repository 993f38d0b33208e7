// SPDX-License-Identifier: Apache-2.0
// From a folder of snapshots to a dataset: each picture cropped to its subject, of one size, with a
// caption.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "caption/captioner.h"
#include "data/dataset.h"
#include "prepare/crop_file.h"
#include "prepare/finding.h"

namespace fluxlora::prepare {

struct Options {
  std::filesystem::path pictures;  ///< the folder of snapshots
  std::filesystem::path output;    ///< the dataset's folder
  int64_t resolution = 1024;       ///< side of the squares, pixels, a multiple of 16
  bool buckets = false;            ///< rectangles of the picture's shape and that area instead
  double max_upscale = DatasetOptions{}.max_upscale;             ///< what needs more is left out
  std::array<uint8_t, 3> background = ReadOptions{}.background;  ///< behind transparent pixels
  std::map<std::string, Point> focus;  ///< by file name: where its subject is
  std::string trigger;                 ///< put into every caption; empty: captions stay as they are
  caption::Options caption;            ///< for pictures that have none
  bool overwrite_captions = false;     ///< write those in `output` again
};

/// One picture of the dataset.
struct PreparedPicture {
  std::string file;     ///< name of the source
  std::string written;  ///< name in the dataset, a PNG file
  Size source;          ///< upright, pixels
  CropEntry crop;
  Box used;  ///< what was cut out: crop.box with the proportions of `size`
  Size size;
  std::string caption;
};

struct Report {
  std::vector<PreparedPicture> pictures;  ///< in the order of their names
  std::vector<Finding> findings;
  std::vector<std::string> notes;  ///< files that were left aside, one line each
  std::string trigger_split;       ///< how CLIP splits the trigger word; empty without one
};

/// One preparation: look(), and then, if what it found is acceptable, write(). Whoever only looks
/// leaves nothing behind. Holds the output folder for this process.
class Preparation {
 public:
  /// Throws Error (bad_input) for options out of range, no folder of pictures, an output folder
  /// that holds other things; environment where it cannot be made.
  explicit Preparation(const Options& options, std::function<bool()> stop = {});
  ~Preparation();
  Preparation(const Preparation&) = delete;
  Preparation& operator=(const Preparation&) = delete;

  /// Reads all pictures, crops each (SubjectFinder, or as crop.json in the output says) and checks
  /// them. A picture that cannot be used is left out with a finding. Leaves early when `stop` says
  /// so; then there must be no write(). Throws Error (bad_input) for a folder without a usable
  /// picture and for a crop.json that makes no sense.
  const Report& look();

  /// Describes pictures without a caption, then puts PNG files of sRGB, .txt captions and crop.json
  /// into the output, with contact_sheet.png and dataset.html. Earlier pictures of the same name
  /// are replaced, captions stay unless overwrite_captions. When `stop` says so, captions that were
  /// not made are missing. Throws Error for a captioner that cannot work and a full disk.
  const Report& write();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fluxlora::prepare
