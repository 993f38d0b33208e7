// SPDX-License-Identifier: Apache-2.0
// What the tokenizers need of Unicode, over utf8proc. Texts are valid UTF-8 here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fluxlora::unicode {

/// The code point that begins at text[at]; moves `at` behind it.
char32_t next(std::string_view text, size_t& at);

/// Appends the UTF-8 of a code point.
void append(std::string& text, char32_t code);

/// Valid UTF-8 of any bytes: each maximal beginning of a character that does not go on (Unicode,
/// section 3.9, "U+FFFD Substitution of Maximal Subparts") becomes U+FFFD.
std::string repair(std::string_view bytes);

/// General category L*, N*, and the property White_Space.
bool is_letter(char32_t code);
bool is_number(char32_t code);
bool is_white_space(char32_t code);

/// Canonical composition (NFC).
std::string nfc(std::string_view text);

/// The full lowercase of each character alone, whatever its neighbours: a final sigma becomes an
/// ordinary one, U+0130 becomes "i" and U+0307.
std::string lower(std::string_view text);

/// End of the grapheme cluster (UAX 29, extended) that begins at text[at].
size_t grapheme_end(std::string_view text, size_t at);

}  // namespace fluxlora::unicode
