// SPDX-License-Identifier: Apache-2.0
// Inside this room only: files over HTTP, by libcurl.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace fluxlora::caption {

class Http {
 public:
  /// `token` is sent as "Authorization: Bearer" to the host of the URL alone, never to one that it
  /// redirects to; it stands in no message. Empty: none. `stop` is asked now and then; may be
  /// empty.
  Http(std::string token, std::function<bool()> stop);

  /// The body of a small answer, at most 16 MiB. Throws Error: bad_input for 404, environment for
  /// 401 and 403 (it says how to give a token), every other status and a connection that fails.
  std::string get(const std::string& url) const;

  /// Writes what is missing of `size` bytes behind those that `part` has; from the start if the
  /// server cannot do that. `part` keeps what came, whatever happens. False when `stop` said so.
  /// Errors of get(), and environment where the disk is full.
  bool download(const std::string& url, const std::filesystem::path& part, int64_t size) const;

 private:
  std::string token_;
  std::function<bool()> stop_;
};

}  // namespace fluxlora::caption
