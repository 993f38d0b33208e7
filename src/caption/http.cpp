// SPDX-License-Identifier: Apache-2.0
#include "caption/http.h"

#include <cstdio>
#include <memory>

#include <curl/curl.h>
#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"

namespace fluxlora::caption {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostBytes = size_t{16} << 20;
constexpr long kSecondsToConnect = 30, kSecondsWithoutData = 60;

/// What an answer is written to, and what a transfer needs to know while it runs.
struct Transfer {
  std::string* text = nullptr;
  std::FILE* file = nullptr;
  const std::function<bool()>* stop = nullptr;
  int64_t before = 0, size = 0;  ///< of a file: bytes that were there, bytes of the whole
  std::string name;
  bool disk_full = false;
};

size_t take(char* bytes, size_t one, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const size_t size = one * count;
  if (transfer.text) {
    if (transfer.text->size() + size > kMostBytes) return 0;
    transfer.text->append(bytes, size);
    return size;
  }
  const size_t written = std::fwrite(bytes, 1, size, transfer.file);
  transfer.disk_full = written != size;
  return written;
}

int progress(void* user, curl_off_t, curl_off_t now, curl_off_t, curl_off_t) {
  const auto& transfer = *static_cast<const Transfer*>(user);
  if (transfer.file && transfer.size > 0) {
    const int64_t have = transfer.before + now;
    show_progress(
        fmt::format("{}: {} of {} MB", transfer.name, have / 1000000, transfer.size / 1000000));
  }
  return *transfer.stop && (*transfer.stop)() ? 1 : 0;
}

std::string host_of(const std::string& url) {
  const size_t begin = url.find("://");
  if (begin == std::string::npos) return url;
  return url.substr(0, url.find('/', begin + 3));
}

[[noreturn]] void refuse_status(const std::string& url, long status, bool with_token) {
  if (status == 401 || status == 403)
    throw environment_error(
        url,
        fmt::format("the server wants {} ({})", with_token ? "another token" : "a token", status),
        "accept the model's licence on its page, make a token for reading there and set HF_TOKEN "
        "to it");
  if (status == 404)
    throw bad_input(url, "is not there (404)",
                    "the model may have moved: fetch its files by other means and give their "
                    "folder by --caption-model");
  throw environment_error(url, fmt::format("the server answers {}", status),
                          "try again later; what has arrived is kept");
}

/// One request; the answer goes to `transfer`.
CURLcode perform(const std::string& url, const std::string& token, Transfer& transfer,
                 long& status) {
  const std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), curl_easy_cleanup);
  CHECK(curl, "curl_easy_init");
  const auto set = [&](CURLoption option, auto value) {
    CHECK(curl_easy_setopt(curl.get(), option, value) == CURLE_OK, "curl_easy_setopt");
  };
  set(CURLOPT_URL, url.c_str());
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_USERAGENT, "fluxlora");
  set(CURLOPT_FOLLOWLOCATION, 1L);
  set(CURLOPT_MAXREDIRS, 10L);
  const char* protocols = url.starts_with("https:") ? "https" : "http,https";
  set(CURLOPT_PROTOCOLS_STR, protocols);
  set(CURLOPT_REDIR_PROTOCOLS_STR, protocols);
  set(CURLOPT_FAILONERROR, 1L);  // the page of an error is no part of the file
  set(CURLOPT_CONNECTTIMEOUT, kSecondsToConnect);
  set(CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(CURLOPT_LOW_SPEED_TIME, kSecondsWithoutData);
  set(CURLOPT_WRITEFUNCTION, take);
  set(CURLOPT_WRITEDATA, &transfer);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, progress);
  set(CURLOPT_XFERINFODATA, &transfer);
  if (transfer.before > 0) set(CURLOPT_RESUME_FROM_LARGE, curl_off_t{transfer.before});
  if (!token.empty()) {
    // As libcurl's own credential, so that it knows not to hand it to another host.
    set(CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
    set(CURLOPT_XOAUTH2_BEARER, token.c_str());
  }
  const CURLcode code = curl_easy_perform(curl.get());
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
  return code;
}

[[noreturn]] void refuse(const std::string& url, CURLcode code, long status, bool with_token) {
  show_progress("");
  if (code == CURLE_HTTP_RETURNED_ERROR) refuse_status(url, status, with_token);
  throw environment_error(
      host_of(url), curl_easy_strerror(code),
      "check the connection and run the command again; what has arrived is kept");
}

}  // namespace

Http::Http(std::string token, std::function<bool()> stop)
    : token_(std::move(token)), stop_(std::move(stop)) {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (started != CURLE_OK)
    throw environment_error("libcurl", curl_easy_strerror(started), "install libcurl again");
}

std::string Http::get(const std::string& url) const {
  std::string text;
  Transfer transfer;
  transfer.text = &text;
  transfer.stop = &stop_;
  long status = 0;
  const CURLcode code = perform(url, token_, transfer, status);
  if (code != CURLE_OK) refuse(url, code, status, !token_.empty());
  return text;
}

bool Http::download(const std::string& url, const fs::path& part, int64_t size) const {
  std::error_code ignored;
  Transfer transfer;
  transfer.size = size;
  transfer.stop = &stop_;
  transfer.name = part.filename().string();
  transfer.before = fs::exists(part, ignored) ? static_cast<int64_t>(fs::file_size(part)) : 0;
  if (transfer.before == size && size > 0) return true;
  if (transfer.before > size) transfer.before = 0;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
      std::fopen(part.c_str(), transfer.before > 0 ? "ab" : "wb"), std::fclose);
  if (!file)
    throw environment_error(part.string(), "cannot be written", "check the folder's permissions");
  transfer.file = file.get();
  long status = 0;
  CURLcode code = perform(url, token_, transfer, status);
  if (code == CURLE_RANGE_ERROR) {  // the server sends whole files only
    transfer.before = 0;
    if (std::freopen(part.c_str(), "wb", file.get())) code = perform(url, token_, transfer, status);
  }
  if (std::fflush(file.get()) != 0 || transfer.disk_full)
    throw environment_error(part.string(), "cannot be written: the disk is full",
                            "make room; what has arrived is kept");
  if (code == CURLE_ABORTED_BY_CALLBACK) return false;
  if (code != CURLE_OK) refuse(url, code, status, !token_.empty());
  show_progress("");
  return true;
}

}  // namespace fluxlora::caption
