// SPDX-License-Identifier: Apache-2.0
#include "caption/picture_features.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace fluxlora::caption {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int kLargestSide = 4096;

/// A side, as a number or as the value of one of `keys`.
int side(const Json& json, std::initializer_list<const char*> keys) {
  if (json.is_number_integer()) return json.get<int>();
  for (const char* key : keys)
    if (json.contains(key)) return json.at(key).get<int>();
  return json.at(*keys.begin()).get<int>();  // says what is missing
}

fs::path config_of(const fs::path& model) {
  if (!file_exists(model))
    throw bad_input(model.string(), "does not exist", "give an ONNX file of DINOv2 or CLIP");
  const char* const name = "preprocessor_config.json";
  const fs::path beside = model.parent_path() / name;
  const fs::path above = model.parent_path() / ".." / name;
  if (file_exists(beside)) return beside;
  if (file_exists(above)) return above;
  throw bad_input(model.string(),
                  "has no preprocessor_config.json beside it or in the folder above",
                  "copy it from where the model is from: it says how pictures are prepared");
}

std::string choose_output(const OnnxSession& session) {
  for (const char* name : {"image_embeds", "pooler_output", "last_hidden_state"})
    for (const OnnxPort& port : session.outputs())
      if (port.name == name) return name;
  if (session.outputs().size() == 1) return session.outputs().front().name;
  throw bad_input(session.path().string(),
                  "has no output image_embeds, pooler_output or last_hidden_state",
                  "give the vision part of a CLIP, or a DINOv2");
}

}  // namespace

PictureInput read_picture_input(const fs::path& config) {
  const Json json = Json::parse(read_text(config), nullptr, false);
  try {
    PictureInput p;
    const Json& size = json.at("size");
    p.shorter_side = side(size, {"shortest_edge", "height"});
    p.crop = {p.shorter_side, p.shorter_side};
    if (json.contains("crop_size") && json.value("do_center_crop", true)) {
      const Json& crop = json.at("crop_size");
      p.crop = {side(crop, {"width"}), side(crop, {"height"})};
    }
    const auto mean = json.at("image_mean").get<std::array<double, 3>>();
    const auto deviation = json.at("image_std").get<std::array<double, 3>>();
    std::copy(mean.begin(), mean.end(), p.mean);
    std::copy(deviation.begin(), deviation.end(), p.deviation);
    const int least = std::min(p.crop.width, p.crop.height);
    const int most = std::max(p.crop.width, p.crop.height);
    if (least > 0 && most <= p.shorter_side && p.shorter_side <= kLargestSide &&
        std::all_of(deviation.begin(), deviation.end(), [](double d) { return d > 0; }))
      return p;
  } catch (const Json::exception&) {
    // said below
  }
  throw bad_input(config.string(), "does not say size, image_mean and image_std",
                  "copy it again from where the model is from");
}

PictureFeatures::PictureFeatures(const fs::path& model)
    : input_(read_picture_input(config_of(model))),
      session_(model),
      output_(choose_output(session_)) {
  if (session_.inputs().size() != 1)
    throw bad_input(model.string(), "wants more than a picture",
                    "give the vision part alone, such as vision_model.onnx");
}

std::vector<float> PictureFeatures::of(const Picture& picture) {
  const int shorter = std::min(picture.width, picture.height);
  const auto scaled = [&](int length) {
    return static_cast<int>(int64_t{input_.shorter_side} * length / shorter);
  };
  const Picture small = resize_cubic(picture, {scaled(picture.width), scaled(picture.height)});
  const Size crop = input_.crop;
  const int left = (small.width - crop.width) / 2, top = (small.height - crop.height) / 2;
  std::vector<float> values;
  values.reserve(size_t{3} * static_cast<size_t>(crop.width) * static_cast<size_t>(crop.height));
  for (int c = 0; c < 3; ++c)
    for (int y = top; y < top + crop.height; ++y)
      for (int x = left; x < left + crop.width; ++x) {
        const auto at = static_cast<size_t>((y * small.width + x) * 3 + c);
        values.push_back(
            static_cast<float>((small.rgb[at] / 255. - input_.mean[c]) / input_.deviation[c]));
      }
  OnnxTensors in;
  in[session_.inputs().front().name] = {{1, 3, crop.height, crop.width}, std::move(values)};
  const OnnxTensors out = session_.run(in, {output_});
  const OnnxTensor& all = out.at(output_);
  const std::vector<float>* const found = std::get_if<std::vector<float>>(&all.values);
  if (!found || all.shape.size() < 2 || all.shape.back() < 1)
    throw bad_input(session_.path().string(), "output " + output_ + " is no vector of a picture",
                    "give the vision part of a CLIP, or a DINOv2");
  std::vector<float> vector(found->begin(), found->begin() + all.shape.back());
  const double length = std::sqrt(cosine(vector, vector));
  if (!(length > 0) || !std::isfinite(length))
    throw bad_input(session_.path().string(), "gave a vector without a direction",
                    "copy the model again");
  for (float& value : vector) value = static_cast<float>(value / length);
  return vector;
}

double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

}  // namespace fluxlora::caption
