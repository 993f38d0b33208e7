// SPDX-License-Identifier: Apache-2.0
#include "caption/wd14_tagger.h"

#include <algorithm>
#include <array>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/file.h"
#include "caption/onnx_session.h"
#include "data/resize.h"

namespace fluxlora::caption {
namespace {

// The names in which underscores belong to the face: those that the taggers' authors list.
constexpr std::array<std::string_view, 19> kEmoticons{
    "0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<",  "3_3",
    "6_9", ">_o",     "@_@", "^_^", "o_o", "u_u",     "x_x",     "|_|", "||_||"};

std::string spaced(std::string name) {
  if (std::find(kEmoticons.begin(), kEmoticons.end(), name) == kEmoticons.end())
    std::replace(name.begin(), name.end(), '_', ' ');
  return name;
}

/// For comparing with the blacklist.
std::string plain(std::string name) {
  for (char& c : name) {
    if (c == '_') c = ' ';
    if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
  }
  return name;
}

/// One line of a CSV file (RFC 4180, no line breaks inside fields).
std::vector<std::string> fields_of(std::string_view line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '"') {
      if (quoted && i + 1 < line.size() && line[i + 1] == '"')
        fields.back() += line[i++];
      else
        quoted = !quoted;
    } else if (line[i] == ',' && !quoted) {
      fields.emplace_back();
    } else {
      fields.back() += line[i];
    }
  }
  return fields;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (line.ends_with('\r')) line.pop_back();
    lines.push_back(std::move(line));
    at = end + 1;
  }
  return lines;
}

TagKind kind_of(const std::string& category) {
  if (category == "0") return TagKind::general;
  if (category == "4") return TagKind::character;
  return category == "9" ? TagKind::rating : TagKind::other;
}

/// A white square with the picture in its middle.
Picture squared(const Picture& picture) {
  const int side = std::max(picture.width, picture.height);
  if (picture.width == picture.height) return picture;
  Picture square{side, side, std::vector<uint8_t>(size_t{3} * side * side, 255)};
  const int left = (side - picture.width) / 2, top = (side - picture.height) / 2;
  const size_t row = size_t{3} * picture.width;
  for (int y = 0; y < picture.height; ++y)
    std::copy_n(picture.rgb.begin() + static_cast<ptrdiff_t>(row * y), row,
                square.rgb.begin() + ptrdiff_t{3} * ((ptrdiff_t{top} + y) * side + left));
  return square;
}

class Wd14Tagger final : public Captioner {
 public:
  Wd14Tagger(const std::filesystem::path& folder, const TaggerOptions& options)
      : tags_(read_tags(folder / "selected_tags.csv")),
        options_(options),
        session_(folder / "model.onnx") {
    if (session_.inputs().size() != 1 || session_.outputs().size() != 1) refuse();
    const std::vector<int64_t>& shape = session_.inputs()[0].shape;
    if (shape.size() != 4 || shape[1] != shape[2] || shape[3] != 3 || shape[1] <= 0) refuse();
    side_ = static_cast<int>(shape[1]);
  }

  std::string describe(const Picture& picture) override {
    const Picture small = resize_cubic(squared(picture), {side_, side_});
    std::vector<float> pixels(small.rgb.size());
    for (size_t i = 0; i < pixels.size(); i += 3)
      for (size_t c = 0; c < 3; ++c) pixels[i + c] = small.rgb[i + 2 - c];
    OnnxTensors in;
    in[session_.inputs()[0].name] = {{1, side_, side_, 3}, std::move(pixels)};
    const OnnxTensors out = session_.run(in, {session_.outputs()[0].name});
    const auto* probabilities = std::get_if<std::vector<float>>(&out.begin()->second.values);
    if (!probabilities) refuse();
    if (probabilities->size() != tags_.size())
      throw bad_input(session_.path().string(),
                      fmt::format("gives {} probabilities, but selected_tags.csv has {} tags",
                                  probabilities->size(), tags_.size()),
                      "take both files from the same model");
    return tags_caption(tags_, *probabilities, options_);
  }

 private:
  [[noreturn]] void refuse() const {
    throw bad_input(session_.path().string(),
                    "is not a tagger like WD14: one input (N, size, size, 3), one output",
                    "fluxlora fetch wd-vit-tagger-v3 brings one");
  }

  std::vector<Tag> tags_;
  TaggerOptions options_;
  OnnxSession session_;
  int side_ = 0;
};

}  // namespace

std::vector<Tag> read_tags(const std::filesystem::path& csv) {
  const std::vector<std::string> lines = lines_of(read_text(csv));
  const auto refuse = [&](size_t line, const std::string& what) {
    throw bad_input(fmt::format("{}:{}", csv.string(), line + 1), what,
                    "copy or fetch the tagger's files again");
  };
  const std::vector<std::string> header =
      lines.empty() ? std::vector<std::string>{} : fields_of(lines[0]);
  const auto column = [&](const char* name) {
    const auto found = std::find(header.begin(), header.end(), name);
    if (found == header.end()) refuse(0, fmt::format("has no column \"{}\"", name));
    return static_cast<size_t>(found - header.begin());
  };
  const size_t name = column("name"), category = column("category");
  std::vector<Tag> tags;
  for (size_t i = 1; i < lines.size(); ++i) {
    if (lines[i].empty()) continue;
    const std::vector<std::string> fields = fields_of(lines[i]);
    if (fields.size() <= std::max(name, category)) refuse(i, "has too few fields");
    tags.push_back({fields[name], kind_of(fields[category])});
  }
  if (tags.empty()) refuse(0, "holds no tags");
  return tags;
}

std::string tags_caption(const std::vector<Tag>& tags, const std::vector<float>& probabilities,
                         const TaggerOptions& options) {
  CHECK(tags.size() == probabilities.size(), "tags_caption: a probability for each tag");
  std::vector<std::string> unwanted;
  for (const std::string& name : options.blacklist) unwanted.push_back(plain(name));
  std::vector<std::string> words;
  const auto take = [&](TagKind kind, double threshold) {
    std::vector<size_t> taken;
    for (size_t i = 0; i < tags.size(); ++i)
      if (tags[i].kind == kind && probabilities[i] > threshold &&
          std::find(unwanted.begin(), unwanted.end(), plain(tags[i].name)) == unwanted.end())
        taken.push_back(i);
    std::stable_sort(taken.begin(), taken.end(),
                     [&](size_t a, size_t b) { return probabilities[a] > probabilities[b]; });
    for (const size_t i : taken) words.push_back(spaced(tags[i].name));
  };
  take(TagKind::character, options.character_threshold);
  take(TagKind::general, options.general_threshold);
  return fmt::format("{}", fmt::join(words, ", "));
}

std::unique_ptr<Captioner> open_wd14_tagger(const std::filesystem::path& folder,
                                            const TaggerOptions& options) {
  for (const double threshold : {options.general_threshold, options.character_threshold})
    if (!(threshold >= 0 && threshold <= 1))
      throw bad_input("the tagger's threshold", fmt::format("is {}", threshold),
                      "give a number from 0 to 1");
  return std::make_unique<Wd14Tagger>(folder, options);
}

}  // namespace fluxlora::caption
