// SPDX-License-Identifier: Apache-2.0
// SHA-256, as lower-case hexadecimal digits.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace fluxlora {

/// A hash that is fed in pieces.
class Sha256 {
 public:
  Sha256();
  Sha256& update(std::span<const std::byte> bytes);
  Sha256& update(std::string_view text);
  /// The 64 digits of everything so far; then it starts anew.
  std::string hex();

 private:
  std::unique_ptr<evp_md_ctx_st, void (*)(evp_md_ctx_st*)> context_;
};

std::string sha256_hex(std::span<const std::byte> bytes);
std::string sha256_hex(std::string_view text);

/// Of a file's bytes; "builtin:" names too. Errors as map_file.
std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace fluxlora
