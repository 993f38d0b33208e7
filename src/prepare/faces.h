// SPDX-License-Identifier: Apache-2.0
// Inside this room only: faces in pictures, and a window that cuts none of them.
#pragma once

#include <memory>
#include <vector>

#include "data/picture.h"
#include "data/resize.h"

namespace fluxlora {

/// Finds faces by dlib's frontal detector (gradients, five views from half left to half right), in
/// some 50 ms. For one thread at a time.
class FaceFinder {
 public:
  FaceFinder();
  ~FaceFinder();
  FaceFinder(const FaceFinder&) = delete;
  FaceFinder& operator=(const FaceFinder&) = delete;

  /// Heads with their hair, in pixels, inside the picture, the largest first: of upright faces that
  /// take a tenth of the picture's longer side or more.
  std::vector<Box> find(const Picture& picture);

 private:
  struct Detector;
  std::unique_ptr<Detector> detector_;
};

/// A part of one side of a picture, pixels.
struct Stretch {
  int begin = 0, end = 0;
};

/// Where a window of `length` begins on a side of `limit` pixels that is at least as long. It holds
/// the first of `faces`, and those after it that fit in with it, in its middle; moved from there as
/// little as need be, it cuts as few of the others as it can. At least one face.
int window_around(const std::vector<Stretch>& faces, int length, int limit);

}  // namespace fluxlora
