// SPDX-License-Identifier: Apache-2.0
// Where the captions of a folder stand, and the forms in which one caption is trained.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace fluxlora {

/// The captions of one folder, by the conventions of several trainers. A picture's are the first
/// that there are of
///   NAME.txt; NAME.caption (kohya's sd-scripts);
///   NAME.json with "caption" and, if there, "caption_short" (ai-toolkit), which are two captions;
///   metadata.jsonl (Hugging Face): lines of {"file_name", "text"}; a list in "text" and several
///   lines for one file are several captions.
class CaptionSource {
 public:
  /// No captions.
  CaptionSource() = default;

  /// Reads metadata.jsonl, if there is one. Throws Error (bad_input) that names its line.
  explicit CaptionSource(const std::filesystem::path& folder);

  /// The picture's captions, spaces collapsed; nothing when there is none. With `by_line` each line
  /// of a text file is a caption, else the whole of it. Throws Error (bad_input; environment for a
  /// file that may not be read).
  std::optional<std::vector<std::string>> captions(const std::filesystem::path& picture,
                                                   bool by_line) const;

  /// File names that metadata.jsonl has captions for.
  std::vector<std::string> listed() const;

 private:
  void add_line(const std::string& line, const std::string& where);

  std::map<std::string, std::vector<std::string>> listed_;
};

struct FormOptions {
  bool choices = false;       ///< {a|b} stands for one of its words
  bool shuffle_tags = false;  ///< what stands between commas comes in any order
  int64_t keep_tags = 0;      ///< but the first so many stay in front
  std::string trigger;        ///< and so does a first tag with this word in it
  int64_t forms = 8;          ///< at most so many forms of a caption
};

/// The forms in which a caption is trained, each once, the first as it is written (with the first
/// word of each choice); the others are drawn, by the caption alone. Tags before a "|||" stay in
/// front and those behind a second one at the end (kohya's keep_tokens_separator).
std::vector<std::string> caption_forms(const std::string& caption, const FormOptions& options);

}  // namespace fluxlora
