// SPDX-License-Identifier: Apache-2.0
// Where a picture's subject is, and the crop that shows it best.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include "data/picture.h"
#include "data/resize.h"

namespace fluxlora {

/// What told where the subject is, the most trusted first.
enum class FoundBy { you, face, saliency, attention, centre };

/// "you", "face", "saliency", "attention", "centre".
std::string_view word_for(FoundBy found_by);

struct SubjectCrop {
  Box box;  ///< pixels of the picture
  FoundBy found_by = FoundBy::centre;
};

/// Finds subjects offline: by the point that a person gave, else by faces, else by a small network
/// of our own, else by libvips' attention, else in the centre (docs/crop.md). Loads its models once
/// (some ten milliseconds), and runs them on the CPU. For one thread at a time: have one for each
/// thread.
class SubjectFinder {
 public:
  SubjectFinder();
  ~SubjectFinder();
  SubjectFinder(const SubjectFinder&) = delete;
  SubjectFinder& operator=(const SubjectFinder&) = delete;

  /// The largest box with the proportions of `aspect` that lies in the picture, moved so that the
  /// subject is in it, in its middle where the picture's edges allow. `focus` is limited to the
  /// picture. The same picture gives the same box.
  SubjectCrop find(const Picture& picture, std::optional<Point> focus = {}, Size aspect = {1, 1});

 private:
  struct Models;
  std::unique_ptr<Models> models_;
};

}  // namespace fluxlora
