// SPDX-License-Identifier: Apache-2.0
#include "data/caption.h"

#include <sstream>

#include <fmt/format.h>
#include <glib.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"

namespace fluxlora {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPlaceholder = "[trigger]";

/// The code point at `at` (valid UTF-8); `at` moves behind it.
gunichar next_char(std::string_view text, size_t& at) {
  const char* here = text.data() + at;
  at = static_cast<size_t>(g_utf8_next_char(here) - text.data());
  return g_utf8_get_char(here);
}

bool in_word(gunichar c) {
  return g_unichar_isalnum(c) || g_unichar_ismark(c) || c == '_';
}

std::vector<gunichar> lower_chars(std::string_view text) {
  std::vector<gunichar> chars;
  for (size_t at = 0; at < text.size();) chars.push_back(g_unichar_tolower(next_char(text, at)));
  return chars;
}

/// The text of a caption file, checked.
std::string read_checked(const fs::path& path) {
  std::error_code code;
  if (fs::is_regular_file(path, code) && access(path.c_str(), R_OK) != 0) {
    throw environment_error(path.string(), "may not be read",
                            "give yourself the right to read it (chmod u+r)");
  }
  if (fs::is_regular_file(path, code) && fs::file_size(path, code) > kMaxCaptionBytes) {
    throw bad_input(path.string(), "is longer than 100,000 bytes, which is no caption",
                    "write one or a few sentences about the picture");
  }
  std::string text = read_text(path, Encoding::any);
  // Counts a zero byte as not valid, which is right for a text.
  const char* end = nullptr;
  if (!g_utf8_validate(text.data(), static_cast<gssize>(text.size()), &end)) {
    throw bad_input(path.string(),
                    fmt::format("is not UTF-8 text: byte 0x{:02x} at offset {}",
                                static_cast<unsigned char>(*end), end - text.data()),
                    "save the caption as UTF-8 (in an editor: \"Save with encoding\")");
  }
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
  return text;
}

}  // namespace

std::string read_caption(const fs::path& path) {
  return collapse_spaces(read_checked(path));
}

std::vector<std::string> read_caption_lines(const fs::path& path) {
  std::vector<std::string> lines;
  std::istringstream text(read_checked(path));
  for (std::string line; std::getline(text, line);) {
    line = collapse_spaces(line);
    if (!line.empty()) lines.push_back(std::move(line));
  }
  if (lines.empty()) lines.emplace_back();
  return lines;
}

std::optional<fs::path> caption_file(const fs::path& picture) {
  std::error_code code;
  for (const char* ending : {".txt", ".TXT", ".caption"}) {
    fs::path path = picture;
    path.replace_extension(ending);
    if (fs::exists(fs::symlink_status(path, code))) return path;  // a broken link is a mistake
  }
  return std::nullopt;
}

std::string collapse_spaces(std::string_view text) {
  std::string result;
  bool gap = false;
  for (size_t at = 0; at < text.size();) {
    const size_t first = at;
    const gunichar c = next_char(text, at);
    if (g_unichar_isspace(c) || g_unichar_iscntrl(c)) {
      gap = true;
      continue;
    }
    if (gap && !result.empty()) result += ' ';
    gap = false;
    result += text.substr(first, at - first);
  }
  return result;
}

bool contains_word(std::string_view text, std::string_view word) {
  const std::vector<gunichar> in = lower_chars(text), sought = lower_chars(word);
  if (sought.empty()) return false;
  for (size_t at = 0; at + sought.size() <= in.size(); ++at) {
    if (!std::equal(sought.begin(), sought.end(), in.begin() + static_cast<ptrdiff_t>(at)))
      continue;
    const size_t end = at + sought.size();
    const bool starts = at == 0 || !in_word(in[at - 1]);
    const bool ends = end == in.size() || !in_word(in[end]);
    if (starts && ends) return true;
  }
  return false;
}

std::string put_trigger(std::string_view caption, std::string_view trigger) {
  std::string text(caption);
  bool replaced = false;
  for (size_t at = text.find(kPlaceholder); at != std::string::npos;
       at = text.find(kPlaceholder, at + trigger.size())) {
    text.replace(at, kPlaceholder.size(), trigger);
    replaced = true;
  }
  if (trigger.empty()) return replaced ? collapse_spaces(text) : text;
  if (replaced || contains_word(text, trigger)) return text;
  if (text.empty()) return std::string(trigger);
  return fmt::format("{}, {}", trigger, text);
}

namespace {

/// Bytes at the start of `text` that are the whole word `sought` (in lower case); 0 if it is not
/// there.
size_t leading_word(std::string_view text, const std::vector<gunichar>& sought) {
  for (size_t end = 0; end < text.size();) {
    next_char(text, end);
    const std::vector<gunichar> lower = lower_chars(text.substr(0, end));
    if (lower.size() > sought.size()) return 0;
    if (lower != sought) continue;
    size_t next = end;
    return end == text.size() || !in_word(next_char(text, next)) ? end : 0;
  }
  return 0;
}

}  // namespace

std::string without_trigger(std::string_view caption, std::string_view trigger,
                            std::string_view word) {
  const std::vector<gunichar> sought = lower_chars(trigger);
  std::string text;
  bool starts = true;
  for (size_t at = 0; at < caption.size();) {
    if (const size_t bytes =
            starts && !sought.empty() ? leading_word(caption.substr(at), sought) : 0) {
      text += word;
      at += bytes;
      continue;
    }
    const size_t first = at;
    starts = !in_word(next_char(caption, at));
    text += caption.substr(first, at - first);
  }
  text = collapse_spaces(text);
  if (!word.empty()) return text;
  const size_t begin = text.find_first_not_of(", "), end = text.find_last_not_of(", ");
  return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

}  // namespace fluxlora
