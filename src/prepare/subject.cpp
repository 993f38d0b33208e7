// SPDX-License-Identifier: Apache-2.0
#include "prepare/subject.h"

#include <algorithm>
#include <cmath>

#include "data/glance.h"
#include "ops/device.h"
#include "prepare/faces.h"
#include "prepare/saliency.h"

namespace fluxlora {

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

/// Pixels of the longer side of what libvips looks at.
constexpr int kGlance = 160;

Size attention_size(Size size) {
  const double scale = double(kGlance) / std::max(size.width, size.height);
  const auto side = [&](int length) {
    return std::max(1, static_cast<int>(std::lround(length * scale)));
  };
  return {side(size.width), side(size.height)};
}

/// Where the middle of `box` should be; only the side along which it can be moved counts.
std::optional<Point> by_saliency(SaliencyNetwork& network, const Picture& picture, const Box& box) {
  const Size size{picture.width, picture.height};
  const SaliencyMap map = network.look(thumbnail(picture, SaliencyNetwork::glance_size(size)));
  const bool across = box.width < size.width;
  const double cell = across ? double(size.width) / map.width : double(size.height) / map.height;
  const auto middle = salient_middle(map, across, (across ? box.width : box.height) / cell);
  if (!middle) return std::nullopt;
  return Point{*middle * cell, *middle * cell};
}

/// `box` moved along its free side so that it holds the faces; nothing where there are none.
std::optional<Box> by_faces(FaceFinder& finder, const Picture& picture, Box box) {
  const bool across = box.width < picture.width;
  std::vector<Stretch> faces;
  for (const Box& head : finder.find(picture))
    faces.push_back(across ? Stretch{head.x, head.x + head.width}
                           : Stretch{head.y, head.y + head.height});
  if (faces.empty()) return std::nullopt;
  if (across) {
    box.x = window_around(faces, box.width, picture.width);
  } else {
    box.y = window_around(faces, box.height, picture.height);
  }
  return box;
}

std::optional<Point> by_attention(const Picture& picture) {
  const Size size{picture.width, picture.height}, small = attention_size(size);
  const auto point = attention_point(thumbnail(picture, small));
  if (!point) return std::nullopt;
  return Point{point->x * size.width / small.width, point->y * size.height / small.height};
}

}  // namespace

struct SubjectFinder::Models {
  std::unique_ptr<Device> device = open_device("cpu");
  SaliencyNetwork saliency{*device};
  FaceFinder faces;
};

SubjectFinder::SubjectFinder() : models_(std::make_unique<Models>()) {}
SubjectFinder::~SubjectFinder() = default;

SubjectCrop SubjectFinder::find(const Picture& picture, std::optional<Point> focus, Size aspect) {
  const Size size{picture.width, picture.height};
  const Box box = centre_box(size, aspect);
  if (focus) return {centred_on(box, *focus, picture), FoundBy::you};
  if (Size{box.width, box.height} == size) return {box, FoundBy::centre};
  if (const auto around = by_faces(models_->faces, picture, box)) return {*around, FoundBy::face};
  if (const auto point = by_saliency(models_->saliency, picture, box)) {
    return {centred_on(box, *point, picture), FoundBy::saliency};
  }
  if (const auto point = by_attention(picture)) {
    return {centred_on(box, *point, picture), FoundBy::attention};
  }
  return {box, FoundBy::centre};
}

}  // namespace fluxlora
