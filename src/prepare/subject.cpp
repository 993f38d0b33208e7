// SPDX-License-Identifier: Apache-2.0
#include "prepare/subject.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace fluxlora {

struct SubjectFinder::Models {};

std::string_view word_for(FoundBy found_by) {
  switch (found_by) {
    case FoundBy::you:
      return "you";
    case FoundBy::face:
      return "face";
    case FoundBy::saliency:
      return "saliency";
    case FoundBy::attention:
      return "attention";
    case FoundBy::centre:
      break;
  }
  return "centre";
}

namespace {

/// `box` moved so that its middle is as near to `point` as the picture allows.
Box centred_on(Box box, Point point, const Picture& picture) {
  const auto place = [](double middle, int length, int limit) {
    return static_cast<int>(
        std::lround(std::clamp(middle - length / 2.0, 0.0, double(limit - length))));
  };
  box.x = place(point.x, box.width, picture.width);
  box.y = place(point.y, box.height, picture.height);
  return box;
}

}  // namespace

SubjectFinder::SubjectFinder() : models_(std::make_unique<Models>()) {}
SubjectFinder::~SubjectFinder() = default;

SubjectCrop SubjectFinder::find(const Picture& picture, std::optional<Point> focus, Size aspect) {
  const Box box = centre_box({picture.width, picture.height}, aspect);
  if (focus) return {centred_on(box, *focus, picture), FoundBy::you};
  return {box, FoundBy::centre};
}

}  // namespace fluxlora
