// SPDX-License-Identifier: Apache-2.0
// Taggers in the manner of WD14 (SmilingWolf's wd-*-tagger): model.onnx gives a probability for
// each line of selected_tags.csv.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "caption/captioner.h"

namespace fluxlora::caption {

/// What a tag is about; the numbers are those of the file's column "category".
enum class TagKind { general = 0, character = 4, rating = 9, other };

struct Tag {
  std::string name;  ///< as the file has it, with underscores
  TagKind kind = TagKind::general;
};

/// The lines of selected_tags.csv (a header with "name" and "category", fields quoted where they
/// hold a comma). Throws Error (bad_input) that names the file and line.
std::vector<Tag> read_tags(const std::filesystem::path& csv);

/// The caption: characters, then general tags, each the most probable first, joined by ", ".
/// Ratings and tags of other kinds are never among them, nor those of the blacklist. Underscores
/// become spaces, except in emoticons such as ">_<". One probability for each tag.
std::string tags_caption(const std::vector<Tag>& tags, const std::vector<float>& probabilities,
                         const TaggerOptions& options);

/// Opens `folder`/model.onnx and selected_tags.csv. The model takes (N, S, S, 3): blue, green, red
/// from 0 to 255, the picture in the middle of a white square, resized by a cubic; it gives (N,
/// tags). Errors of open_captioner().
std::unique_ptr<Captioner> open_wd14_tagger(const std::filesystem::path& folder,
                                            const TaggerOptions& options);

}  // namespace fluxlora::caption
