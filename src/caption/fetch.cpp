// SPDX-License-Identifier: Apache-2.0
#include "caption/fetch.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <openssl/evp.h>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/nearest.h"
#include "caption/http.h"
#include "data/cache.h"

namespace fluxlora::caption {
namespace {

namespace fs = std::filesystem;

/// A file as the hub describes it.
struct RemoteFile {
  std::string path, name;
  int64_t size = 0;
  std::string sha256, git_sha1;  ///< one of them

  bool matches(const fs::path& file) const;
  const std::string& hash() const { return sha256.empty() ? git_sha1 : sha256; }
};

/// Git's name of a file: the SHA-1 of "blob SIZE", a zero byte and the content.
std::string git_sha1_of(const fs::path& path) {
  const FileView file = map_file(path);
  const std::string head = fmt::format("blob {}", file.bytes.size());
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(),
                                                                   EVP_MD_CTX_free);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  CHECK(context && EVP_DigestInit_ex(context.get(), EVP_sha1(), nullptr) == 1 &&
            EVP_DigestUpdate(context.get(), head.c_str(), head.size() + 1) == 1 &&
            EVP_DigestUpdate(context.get(), file.bytes.data(), file.bytes.size()) == 1 &&
            EVP_DigestFinal_ex(context.get(), digest, &length) == 1,
        "SHA-1");
  return fmt::format("{:02x}", fmt::join(digest, digest + length, ""));
}

bool RemoteFile::matches(const fs::path& file) const {
  std::error_code none;
  if (static_cast<int64_t>(fs::file_size(file, none)) != size || none) return false;
  return (sha256.empty() ? git_sha1_of(file) : sha256_of_file(file)) == hash();
}

bool is_hash(const std::string& text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

/// The files of the model in the hub's description of its newest revision, whose name goes to
/// `revision`.
std::vector<RemoteFile> files_of(const FetchModel& model, const std::string& url,
                                 const std::string& answer, std::string& revision) {
  const auto refuse = [&](const std::string& what) {
    throw bad_input(url, what, "is HF_ENDPOINT set to a mirror of huggingface.co? unset it");
  };
  try {
    const nlohmann::json json = nlohmann::json::parse(answer);
    revision = json.at("sha").get<std::string>();
    if (!is_hash(revision, 40)) refuse("names no revision");
    std::vector<RemoteFile> files;
    for (const std::string& path : model.files) {
      RemoteFile file{path, fs::path(path).filename().string(), 0, "", ""};
      for (const auto& entry : json.at("siblings")) {
        if (entry.at("rfilename") != path) continue;
        file.size = entry.at("size").get<int64_t>();
        if (entry.contains("lfs") && entry["lfs"].is_object())
          file.sha256 = entry["lfs"].at("sha256").get<std::string>();
        else
          file.git_sha1 = entry.at("blobId").get<std::string>();
      }
      if (!is_hash(file.sha256, 64) && !is_hash(file.git_sha1, 40))
        refuse("has no " + path + " with its hash");
      files.push_back(std::move(file));
    }
    return files;
  } catch (const nlohmann::json::exception&) {
    refuse("does not answer as the Hugging Face hub does");
  }
  return {};
}

/// One file to its place; false when stopped.
bool fetch_file(const Http& http, const RemoteFile& file, const std::string& url,
                const fs::path& folder) {
  const fs::path target = folder / file.name;
  if (file_exists(target) && file.matches(target)) {
    log_info(fmt::format("{} is here", file.name));
    return true;
  }
  // The hash in the name: what is left of another revision is never continued.
  const fs::path part = folder / fmt::format(".{}.{}.part", file.name, file.hash().substr(0, 16));
  if (!http.download(url, part, file.size)) return false;
  if (!file.matches(part)) {
    fs::remove(part);
    throw environment_error(
        url,
        fmt::format("what arrived does not have the hash {} that the hub keeps of it", file.hash()),
        "run the command again; if it stays so, do not use the file");
  }
  fs::rename(part, target);
  sync_folder(folder);
  log_info(fmt::format("{}: {} bytes, {} {}", file.name, file.size,
                       file.sha256.empty() ? "git" : "SHA-256", file.hash()));
  return true;
}

FetchModel tagger(const std::string& name) {
  return {name, "wd14", "SmilingWolf/" + name, {"selected_tags.csv", "model.onnx"}};
}

FetchModel florence(const std::string& name, const std::string& repository) {
  return {name,
          "florence2",
          repository,
          {"preprocessor_config.json", "generation_config.json", "vocab.json", "merges.txt",
           "tokenizer_config.json", "onnx/vision_encoder.onnx", "onnx/embed_tokens.onnx",
           "onnx/encoder_model.onnx", "onnx/decoder_model.onnx"}};
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

}  // namespace

const std::vector<FetchModel>& fetch_models() {
  static const std::vector<FetchModel> models{
      tagger("wd-vit-tagger-v3"),
      tagger("wd-swinv2-tagger-v3"),
      tagger("wd-convnext-tagger-v3"),
      tagger("wd-vit-large-tagger-v3"),
      tagger("wd-eva02-large-tagger-v3"),
      florence("florence-2-base", "onnx-community/Florence-2-base"),
      florence("florence-2-base-ft", "onnx-community/Florence-2-base-ft"),
      florence("florence-2-large", "onnx-community/Florence-2-large"),
      florence("florence-2-large-ft", "onnx-community/Florence-2-large-ft")};
  return models;
}

const FetchModel& find_fetch_model(const std::string& name) {
  std::vector<std::string> names;
  for (const FetchModel& model : fetch_models()) {
    if (model.name == name) return model;
    names.push_back(model.name);
  }
  const auto nearest = nearest_name(name, names);
  throw bad_input(name, "is no model that can be fetched",
                  nearest ? fmt::format("did you mean {}?", *nearest)
                          : fmt::format("there are {}", fmt::join(names, ", ")));
}

fs::path fetched_folder(const FetchModel& model) {
  return default_cache_folder() / "models" / model.name;
}

FetchOptions fetch_options_from_environment(fs::path folder) {
  FetchOptions options;
  options.folder = std::move(folder);
  options.endpoint = variable("HF_ENDPOINT");
  if (options.endpoint.empty()) options.endpoint = "https://huggingface.co";
  while (options.endpoint.ends_with('/')) options.endpoint.pop_back();
  options.token = variable("HF_TOKEN");
  const auto strange = [](unsigned char c) { return c <= ' ' || c >= 127; };
  if (std::any_of(options.token.begin(), options.token.end(), strange))
    throw bad_input("HF_TOKEN", "holds white space or other characters that no token has",
                    "set it to the token alone");
  const bool here = options.endpoint.starts_with("http://127.0.0.1") ||
                    options.endpoint.starts_with("http://localhost");
  if (!options.token.empty() && !here && !options.endpoint.starts_with("https://"))
    throw bad_input("HF_ENDPOINT=" + options.endpoint, "would get HF_TOKEN unencrypted",
                    "use an https address, or unset HF_TOKEN");
  return options;
}

bool fetch(const FetchModel& model, const FetchOptions& options) {
  const Http http(options.token, options.stop);
  const std::string list =
      fmt::format("{}/api/models/{}/revision/main?blobs=true", options.endpoint, model.repository);
  std::string revision;
  const std::vector<RemoteFile> files = files_of(model, list, http.get(list), revision);
  make_folder(options.folder);
  const FolderLock lock(options.folder);
  for (const RemoteFile& file : files) {
    const std::string url =
        fmt::format("{}/{}/resolve/{}/{}", options.endpoint, model.repository, revision, file.path);
    if (!fetch_file(http, file, url, options.folder)) return false;
  }
  return true;
}

}  // namespace fluxlora::caption
