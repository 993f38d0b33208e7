// SPDX-License-Identifier: Apache-2.0
// crop.json: where each picture of a dataset was cropped, for people to read and to change.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "data/resize.h"
#include "prepare/subject.h"

namespace fluxlora::prepare {

/// What crop.json says about one picture. Boxes and points are pixels of the upright source.
struct CropEntry {
  std::optional<Box> box;      ///< what is cut out; a person may change or remove it
  std::optional<Box> found;    ///< what the program chose; another `box` is a person's work
  std::optional<Point> focus;  ///< where a person says that the subject is
  std::string found_by;        ///< word_for(FoundBy)

  /// Whether a person chose the box.
  bool by_hand() const { return box && (!found || *box != *found); }
};

/// By the name of the source file.
using CropFile = std::map<std::string, CropEntry>;

/// Reads {"pictures": {"FILE NAME": {"box": {"x", "y", "width", "height"}, "found_by", "found":
/// {...}, "focus": {"x", "y"}}}}; every part of an entry may be missing, other keys are passed
/// over, numbers are rounded. An absent file is empty. Throws Error (bad_input) that names the key
/// for anything else.
CropFile read_crop_file(const std::filesystem::path& path);

/// Writes it whole or not at all, the names in order. They must be UTF-8.
void write_crop_file(const std::filesystem::path& path, const CropFile& crops);

/// The box of proportions `aspect` that a person's box asks for: grown around its middle, so that
/// nothing is lost, moved into the picture of size `source`; as large as the picture allows where
/// it does not fit. `box` must lie in the picture.
Box fit_box(const Box& box, Size aspect, Size source);

}  // namespace fluxlora::prepare
