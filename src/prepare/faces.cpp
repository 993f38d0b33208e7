// SPDX-License-Identifier: Apache-2.0
#include "prepare/faces.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <tuple>

#include <dlib/array2d.h>
#include <dlib/image_processing/frontal_face_detector.h>

#include "base/error.h"
#include "data/glance.h"

namespace fluxlora {
namespace {

/// Pixels of the longer side of what the detector looks at: its faces have 80 or more.
constexpr int kGlance = 800;
/// Of 100 faces in the photographs of tests/interop/test_faces.py 90 score above this, of the 240
/// pictures of test_subject_crops.py one.
constexpr double kSure = 0.1;

dlib::array2d<unsigned char> grey(const Picture& picture) {
  dlib::array2d<unsigned char> levels(picture.height, picture.width);
  const uint8_t* rgb = picture.rgb.data();
  for (int y = 0; y < picture.height; ++y)
    for (int x = 0; x < picture.width; ++x, rgb += 3)
      levels[y][x] =
          static_cast<unsigned char>(std::lrint(0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]));
  return levels;
}

/// The detector's square goes from the brows to the chin; the head reaches half a face higher, and
/// a quarter beyond on the other sides.
Box head_of(const dlib::rectangle& face, double scale, const Picture& picture) {
  const double side = static_cast<double>(face.width());
  const auto pixel = [scale](double at, int limit) {
    return static_cast<int>(std::lround(std::clamp(at * scale, 0.0, double(limit))));
  };
  const double left = static_cast<double>(face.left()), top = static_cast<double>(face.top());
  Box head;
  head.x = pixel(left - side / 4, picture.width);
  head.y = pixel(top - side / 2, picture.height);
  head.width = pixel(left + 1.25 * side, picture.width) - head.x;
  head.height = pixel(top + 1.25 * side, picture.height) - head.y;
  return head;
}

bool cut(const Stretch& face, int begin, int end) {
  return (face.begin < begin && face.end > begin) || (face.begin < end && face.end > end);
}

/// To be copied: unpacking it takes a quarter of a second.
const dlib::frontal_face_detector& unpacked() {
  static const dlib::frontal_face_detector detector = dlib::get_frontal_face_detector();
  return detector;
}

}  // namespace

struct FaceFinder::Detector {
  dlib::frontal_face_detector find = unpacked();
};

FaceFinder::FaceFinder() : detector_(std::make_unique<Detector>()) {}
FaceFinder::~FaceFinder() = default;

std::vector<Box> FaceFinder::find(const Picture& picture) {
  const double scale = double(std::max(picture.width, picture.height)) / kGlance;
  const auto side = [scale](int length) {
    return std::max(1, static_cast<int>(std::lround(length / scale)));
  };
  const auto levels = grey(thumbnail(picture, {side(picture.width), side(picture.height)}));
  std::vector<dlib::rect_detection> found;
  detector_->find(levels, found, kSure);
  std::vector<Box> heads;
  for (const dlib::rect_detection& face : found)
    heads.push_back(head_of(face.rect, scale, picture));
  std::erase_if(heads, [](const Box& head) { return head.width < 1 || head.height < 1; });
  std::stable_sort(heads.begin(), heads.end(), [](const Box& a, const Box& b) {
    return int64_t{a.width} * a.height > int64_t{b.width} * b.height;
  });
  return heads;
}

int window_around(const std::vector<Stretch>& faces, int length, int limit) {
  CHECK(!faces.empty() && length <= limit, "window_around");
  Stretch held = faces.front();
  for (const Stretch& face : faces) {
    const Stretch both{std::min(held.begin, face.begin), std::max(held.end, face.end)};
    if (both.end - both.begin <= length) held = both;
  }
  const int wanted = std::clamp((held.begin + held.end - length) / 2, 0, limit - length);
  const int first = std::max(0, held.end - length), last = std::min(held.begin, limit - length);
  int best = wanted;
  const auto cost = [&](int begin) {
    const auto cuts = std::count_if(faces.begin(), faces.end(), [&](const Stretch& face) {
      return cut(face, begin, begin + length);
    });
    return std::make_tuple(cuts, std::abs(begin - wanted));
  };
  for (int begin = first; begin <= last; ++begin)
    if (cost(begin) < cost(best)) best = begin;
  return best;
}

}  // namespace fluxlora
