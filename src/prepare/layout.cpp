// SPDX-License-Identifier: Apache-2.0
#include "prepare/layout.h"

#include <map>

#include "base/error.h"

namespace fluxlora::prepare {

namespace fs = std::filesystem;

namespace {

constexpr const char* kCropFile = "crop.json";
constexpr const char* kWorkshop = ".prepare";

/// Whether there is anything but hidden files.
bool holds_something(const fs::path& folder) {
  std::error_code code;
  fs::directory_iterator names(folder, code);
  for (const fs::directory_iterator end; !code && names != end; names.increment(code))
    if (!names->path().filename().string().starts_with('.')) return true;
  return false;
}

}  // namespace

std::vector<std::string> written_names(const std::vector<std::string>& files) {
  std::map<std::string, int> stems;
  stems["contact_sheet"] = 1;  // prepare's own
  for (const std::string& file : files) ++stems[fs::path(file).stem().string()];
  std::vector<std::string> names;
  for (const std::string& file : files) {
    const std::string stem = fs::path(file).stem().string();
    names.push_back((stems[stem] == 1 ? stem : file) + ".png");
  }
  return names;
}

OutputFolder::OutputFolder(const fs::path& pictures, const fs::path& output) : folder_(output) {
  std::error_code code;
  const bool there = fs::exists(output, code);
  if (there && !fs::is_directory(output, code))
    throw bad_input(output.string(), "is not a folder", "give a new folder to --output");
  if (there && fs::equivalent(pictures, output, code))
    throw bad_input(output.string(), "is the folder of the pictures themselves",
                    "give another folder to --output: your pictures stay as they are");
  if (there && holds_something(output) && !file_exists(crop_file()))
    throw bad_input(output.string(), "holds files, but no crop.json of an earlier preparation",
                    "give a new or empty folder to --output");
  make_folder(output);
  made_ = !there;
  lock_ = std::make_unique<FolderLock>(output);
  fs::remove_all(workshop(), code);  // what an interrupted preparation left
  make_folder(workshop());
}

OutputFolder::~OutputFolder() {
  std::error_code code;
  fs::remove_all(workshop(), code);
  lock_.reset();
  if (made_) fs::remove(folder_, code);  // fails where something was published
}

fs::path OutputFolder::workshop() const {
  return folder_ / kWorkshop;
}

fs::path OutputFolder::crop_file() const {
  return folder_ / kCropFile;
}

fs::path OutputFolder::caption_file(const std::string& written) const {
  return (folder_ / written).replace_extension(".txt");
}

void OutputFolder::publish(const std::string& written) const {
  std::error_code code;
  fs::rename(workshop() / written, folder_ / written, code);
  if (code)
    throw environment_error((folder_ / written).string(), "cannot be written: " + code.message(),
                            "give a folder that you may write to");
}

}  // namespace fluxlora::prepare
