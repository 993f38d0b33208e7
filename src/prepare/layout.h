// SPDX-License-Identifier: Apache-2.0
// Inside this room only: the folder that a preparation leaves, and the names in it.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"

namespace fluxlora::prepare {

/// The name in the dataset of each source file: its stem with .png, or the whole name with .png
/// where several files have one stem.
std::vector<std::string> written_names(const std::vector<std::string>& files);

/// The output folder while a preparation works: files are made in a workshop inside of it, and
/// moved out at the end. Without publish() nothing is left, not even the folder if it was not
/// there.
class OutputFolder {
 public:
  /// Throws Error: bad_input where `output` is the folder of the pictures, a file, or holds things
  /// but no crop.json, or another process works there; environment where it cannot be made.
  OutputFolder(const std::filesystem::path& pictures, const std::filesystem::path& output);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  std::filesystem::path workshop() const;
  std::filesystem::path crop_file() const;
  std::filesystem::path caption_file(const std::string& written) const;

  /// Moves a file out of the workshop, over an earlier one of its name. Throws Error (environment).
  void publish(const std::string& written) const;

 private:
  std::filesystem::path folder_;
  bool made_ = false;  ///< by us
  std::unique_ptr<FolderLock> lock_;
};

}  // namespace fluxlora::prepare
