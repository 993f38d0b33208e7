// SPDX-License-Identifier: Apache-2.0
// Fetches the files of captioners from the Hugging Face hub.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace fluxlora::caption {

/// A model that can be fetched by name.
struct FetchModel {
  std::string name;                ///< "wd-vit-tagger-v3"
  std::string kind;                ///< of captioner: "wd14"
  std::string repository;          ///< of the hub: "OWNER/NAME"
  std::vector<std::string> files;  ///< paths in the repository; the folder has their last parts
};

const std::vector<FetchModel>& fetch_models();

/// Throws Error (bad_input) that lists the names when there is no such model.
const FetchModel& find_fetch_model(const std::string& name);

/// Where a model goes: MODELS/NAME, MODELS being $XDG_CACHE_HOME/fluxlora/models or
/// ~/.cache/fluxlora/models.
std::filesystem::path fetched_folder(const FetchModel& model);

struct FetchOptions {
  std::filesystem::path folder;     ///< made if it is missing
  std::string endpoint;             ///< "https://huggingface.co"
  std::string token;                ///< empty: none
  std::function<bool()> stop = {};  ///< may be empty
};

/// Endpoint and token from HF_ENDPOINT and HF_TOKEN. Throws Error (bad_input), without the token's
/// text, when it holds characters that no token has, or would travel unencrypted to another
/// machine.
FetchOptions fetch_options_from_environment(std::filesystem::path folder);

/// Brings the files of a model: all of one revision, each checked against the hash that the hub
/// keeps of it (SHA-256 of large files, git's of small ones) before it gets its name. Files that
/// are there with the right hash are not fetched again, partial ones are continued, also by a later
/// call. False when `stop` said so. Throws Error: those of Http, environment for a file that
/// arrived with another hash (it is removed), bad_input for an answer that is none of the hub's.
bool fetch(const FetchModel& model, const FetchOptions& options);

}  // namespace fluxlora::caption
