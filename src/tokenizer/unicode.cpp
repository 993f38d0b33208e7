// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/unicode.h"

#include <cstdlib>

#include <utf8proc.h>

#include "base/error.h"

namespace fluxlora::unicode {
namespace {

const utf8proc_uint8_t* bytes(std::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

utf8proc_category_t category(char32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code));
}

bool is_ascii(std::string_view text) {
  for (const char c : text)
    if (static_cast<unsigned char>(c) >= 128) return false;
  return true;
}

}  // namespace

char32_t next(std::string_view text, size_t& at) {
  utf8proc_int32_t code = -1;
  const auto rest = static_cast<utf8proc_ssize_t>(text.size() - at);
  const utf8proc_ssize_t length = utf8proc_iterate(bytes(text) + at, rest, &code);
  CHECK(length > 0 && code >= 0, "unicode: text is not UTF-8");
  at += static_cast<size_t>(length);
  return static_cast<char32_t>(code);
}

void append(std::string& text, char32_t code) {
  utf8proc_uint8_t buffer[4];
  const auto length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), buffer);
  text.append(reinterpret_cast<const char*>(buffer), static_cast<size_t>(length));
}

bool is_letter(char32_t code) {
  const utf8proc_category_t c = category(code);
  return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool is_number(char32_t code) {
  const utf8proc_category_t c = category(code);
  return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}

bool is_white_space(char32_t code) {
  if ((code >= 9 && code <= 13) || code == 0x85) return true;  // controls with the property
  const utf8proc_category_t c = category(code);
  return c == UTF8PROC_CATEGORY_ZS || c == UTF8PROC_CATEGORY_ZL || c == UTF8PROC_CATEGORY_ZP;
}

std::string nfc(std::string_view text) {
  if (is_ascii(text)) return std::string(text);
  utf8proc_uint8_t* composed = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(bytes(text), static_cast<utf8proc_ssize_t>(text.size()), &composed,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  CHECK(length >= 0, "unicode: no canonical composition");
  std::string out(reinterpret_cast<char*>(composed), static_cast<size_t>(length));
  std::free(composed);
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const char32_t code = next(text, at);
    if (code == 0x130)  // the one full mapping that is longer than the simple one
      out += "i\u0307";
    else
      append(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))));
  }
  return out;
}

size_t grapheme_end(std::string_view text, size_t at) {
  auto before = static_cast<utf8proc_int32_t>(next(text, at));
  utf8proc_int32_t state = 0;
  while (at < text.size()) {
    size_t behind = at;
    const auto after = static_cast<utf8proc_int32_t>(next(text, behind));
    if (utf8proc_grapheme_break_stateful(before, after, &state)) break;
    before = after;
    at = behind;
  }
  return at;
}

std::string repair(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  std::string out;
  for (size_t at = 0; at < bytes.size();) {
    const unsigned char lead = byte(at);
    const size_t length = lead < 0x80                    ? 1
                          : lead >= 0xC2 && lead <= 0xDF ? 2
                          : lead >= 0xE0 && lead <= 0xEF ? 3
                          : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                         : 0;
    size_t good = 1;
    for (; good < length && at + good < bytes.size(); ++good) {
      // The second byte excludes long forms, surrogates and what is above U+10FFFF.
      const bool second = good == 1;
      const unsigned char low = second && lead == 0xE0   ? 0xA0
                                : second && lead == 0xF0 ? 0x90
                                                         : 0x80;
      const unsigned char high = second && lead == 0xED   ? 0x9F
                                 : second && lead == 0xF4 ? 0x8F
                                                          : 0xBF;
      if (byte(at + good) < low || byte(at + good) > high) break;
    }
    if (length > 0 && good == length)
      out += bytes.substr(at, length);
    else
      append(out, 0xFFFD);
    at += good;
  }
  return out;
}

}  // namespace fluxlora::unicode
