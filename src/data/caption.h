// SPDX-License-Identifier: Apache-2.0
// Captions: the text beside a picture, and the trigger word in it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fluxlora {

/// More bytes are no caption.
inline constexpr size_t kMaxCaptionBytes = 100'000;

/// The caption in a text file: UTF-8, byte order mark removed, every run of white space one space,
/// trimmed. Errors (bad_input): not UTF-8 (with the offset of the first bad byte), a zero byte,
/// more than 100,000 bytes, unreadable.
std::string read_caption(const std::filesystem::path& path);

/// Each line of the file that is not blank as a caption of its own; one empty caption when all are.
std::vector<std::string> read_caption_lines(const std::filesystem::path& path);

/// The text file that belongs to a picture: same folder, same name, ending .txt, .TXT or .caption
/// (kohya's sd-scripts); the first of these, nothing when there is none.
std::optional<std::filesystem::path> caption_file(const std::filesystem::path& picture);

/// Runs of white space (of Unicode) become one space, ends are trimmed.
std::string collapse_spaces(std::string_view text);

/// Whether `word` stands in `text` as a whole word, upper and lower case alike. A word ends where
/// no letter, digit or underscore follows.
bool contains_word(std::string_view text, std::string_view word);

/// A caption that contains the trigger word: each "[trigger]" becomes the word; a caption that has
/// the word already (contains_word) stays as it is; else "WORD, caption", or "WORD" alone for an
/// empty caption. An empty trigger (regularisation) removes "[trigger]" and adds nothing.
std::string put_trigger(std::string_view caption, std::string_view trigger);

/// The caption with every whole-word trigger replaced by `word`; with an empty word it is left out,
/// with a comma that would stand alone.
std::string without_trigger(std::string_view caption, std::string_view trigger,
                            std::string_view word);

}  // namespace fluxlora
