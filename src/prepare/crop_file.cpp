// SPDX-License-Identifier: Apache-2.0
#include "prepare/crop_file.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace fluxlora::prepare {

namespace fs = std::filesystem;

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kMendOrRemove =
    "mend the entry, or remove it to have the subject found again";

/// One entry on its way in; says which file and key a complaint is about.
struct Reader {
  const fs::path& path;
  const std::string& name;

  Error complaint(const std::string& what) const {
    return bad_input(path.string(), fmt::format("\"{}\" {}", name, what), kMendOrRemove);
  }

  /// A pixel's coordinate.
  double number(const Json& object, const char* part, const char* key) const {
    constexpr double kMost = 1e6;
    const auto found = object.find(key);
    if (found == object.end() || !found->is_number())
      throw complaint(fmt::format("has a {} without the number {}", part, key));
    const double value = found->get<double>();
    if (!(std::abs(value) <= kMost))
      throw complaint(fmt::format("has a {} whose {} is no coordinate of a picture", part, key));
    return value;
  }

  const Json* object(const Json& entry, const char* part) const {
    const auto found = entry.find(part);
    if (found == entry.end() || found->is_null()) return nullptr;
    if (!found->is_object()) throw complaint(fmt::format("has a {} that is no object", part));
    return &*found;
  }

  std::optional<Box> box(const Json& entry, const char* part) const {
    const Json* const json = object(entry, part);
    if (!json) return std::nullopt;
    const auto whole = [&](const char* key) {
      return static_cast<int>(std::lround(number(*json, part, key)));
    };
    const Box box{whole("x"), whole("y"), whole("width"), whole("height")};
    if (box.x < 0 || box.y < 0 || box.width < 1 || box.height < 1)
      throw complaint(fmt::format("has a {} that is empty or begins outside the picture", part));
    return box;
  }

  std::optional<Point> point(const Json& entry, const char* part) const {
    const Json* const json = object(entry, part);
    if (!json) return std::nullopt;
    return Point{number(*json, part, "x"), number(*json, part, "y")};
  }

  CropEntry entry(const Json& json) const {
    if (!json.is_object()) throw complaint("is no object");
    CropEntry entry{box(json, "box"), box(json, "found"), point(json, "focus"), ""};
    if (const auto by = json.find("found_by"); by != json.end() && by->is_string())
      entry.found_by = by->get<std::string>();
    return entry;
  }
};

Json to_json(const Box& box) {
  return {{"x", box.x}, {"y", box.y}, {"width", box.width}, {"height", box.height}};
}

}  // namespace

CropFile read_crop_file(const fs::path& path) {
  if (!file_exists(path)) return {};
  const Json json = Json::parse(read_text(path), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("pictures") || !json["pictures"].is_object())
    throw bad_input(path.string(), "is not JSON with an object \"pictures\"",
                    "mend the file, or remove it to have all subjects found again");
  CropFile crops;
  for (const auto& [name, entry] : json["pictures"].items())
    crops[name] = Reader{path, name}.entry(entry);
  return crops;
}

void write_crop_file(const fs::path& path, const CropFile& crops) {
  Json pictures = Json::object();
  for (const auto& [name, entry] : crops) {
    Json json = Json::object();
    if (entry.box) json["box"] = to_json(*entry.box);
    json["found_by"] = entry.found_by;
    if (entry.found) json["found"] = to_json(*entry.found);
    if (entry.focus) json["focus"] = {{"x", entry.focus->x}, {"y", entry.focus->y}};
    pictures[name] = std::move(json);
  }
  write_file_atomically(path, Json{{"pictures", pictures}}.dump(2) + "\n");
}

Box fit_box(const Box& box, Size aspect, Size source) {
  const double proportion = static_cast<double>(aspect.width) / aspect.height;
  const Box largest = centre_box(source, aspect);
  const double width = std::max<double>(box.width, box.height * proportion);
  Box fitted{0, 0, static_cast<int>(std::lround(width)),
             static_cast<int>(std::lround(width / proportion))};
  if (fitted.width > largest.width || fitted.height > largest.height) fitted = largest;
  fitted.x = std::clamp(box.x + (box.width - fitted.width) / 2, 0, source.width - fitted.width);
  fitted.y = std::clamp(box.y + (box.height - fitted.height) / 2, 0, source.height - fitted.height);
  return fitted;
}

}  // namespace fluxlora::prepare
