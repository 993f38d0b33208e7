// SPDX-License-Identifier: Apache-2.0
// The steps of scan(), from a folder to its pictures and what is wrong; `prepare` takes the first.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "data/dataset.h"

namespace fluxlora {

/// Everything that a scan found so far.
struct Findings {
  std::vector<Error> problems;
  std::vector<std::string> warnings, notes;
};

/// What the names in a folder say.
struct Listing {
  std::vector<std::filesystem::path> pictures;  ///< by the bytes of their names
};

/// A picture that was decoded once.
struct Checked {
  std::filesystem::path path;
  std::string hash;  ///< SHA-256 of the file
  Size source;       ///< upright
};

/// The mask file of a picture in `folder`: of its name, with any ending of a picture; nothing when
/// there is none.
std::optional<std::filesystem::path> mask_file(const std::filesystem::path& folder,
                                               const std::filesystem::path& picture);

/// Adds a problem for each option of the folder that is out of range.
void check_folder_options(const FolderOptions& folder, Findings& findings);

/// Reads the names; a missing, empty or pictureless folder is a problem. Says what is left aside.
Listing list_folder(const FolderOptions& folder, Findings& findings);

/// Warns of names in metadata.jsonl that no picture has.
void check_listed(const std::filesystem::path& folder, const std::vector<std::string>& names,
                  const Listing& listing, Findings& findings);

/// Decodes all pictures, several at a time; those with a problem are left out.
std::vector<Checked> check_pictures(const std::vector<std::filesystem::path>& pictures,
                                    Findings& findings);

/// Throws the first problem, with the number of the others in its hint; nothing if there is none.
void throw_problems(const std::vector<Error>& problems);

}  // namespace fluxlora
