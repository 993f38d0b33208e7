// SPDX-License-Identifier: Apache-2.0
#include "train/run_folder.h"

#include <algorithm>
#include <charconv>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"

namespace fluxlora::train {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-";

/// The step of "step-000500"; nothing for other names.
std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t step = 0;
  const char* const first = name.data() + kPrefix.size();
  const char* const last = name.data() + name.size();
  const auto [end, error] = std::from_chars(first, last, step);
  if (error != std::errc() || end != last || step < 0 || RunPaths::step_name(step) != name)
    return std::nullopt;
  return step;
}

void remove_folder(const fs::path& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (error)
    throw environment_error(folder.string(), "cannot be removed: " + error.message(),
                            "check the permissions of the run's folder");
}

/// Takes the folder's name away first, so that whoever is killed meanwhile leaves no half of it.
void remove_whole(const fs::path& folder) {
  const fs::path hidden = folder.parent_path() / fmt::format(".{}.old", folder.filename().string());
  remove_folder(hidden);
  std::error_code error;
  fs::rename(folder, hidden, error);
  remove_folder(error ? folder : hidden);
}

std::vector<fs::path> entries(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, none))
    found.push_back(entry.path());
  return found;
}

bool has_content(const fs::path& file) {
  std::error_code none;
  const auto size = fs::file_size(file, none);
  return !none && size > 0;
}

}  // namespace

std::string RunPaths::step_name(int64_t step) {
  return fmt::format("{}{:06}", kPrefix, step);
}

RunPaths run_paths(const RunOptions& options) {
  const fs::path& path = options.output.path;
  return {path.empty() ? fs::path("runs") / options.subject.name : path, options.subject.name};
}

std::vector<int64_t> step_folders(const fs::path& folder) {
  std::vector<int64_t> steps;
  for (const fs::path& entry : entries(folder))
    if (const auto step = step_of(entry.filename().string())) steps.push_back(*step);
  std::sort(steps.begin(), steps.end());
  return steps;
}

FolderInTheMaking::FolderInTheMaking(fs::path destination)
    : destination_(std::move(destination)),
      path_(destination_.parent_path() / fmt::format(".{}", destination_.filename().string())) {
  remove_folder(path_);
  make_folder(path_);
}

FolderInTheMaking::~FolderInTheMaking() {
  if (finished_) return;
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void FolderInTheMaking::finish() {
  sync_folder(path_);
  if (fs::exists(destination_)) remove_whole(destination_);
  std::error_code error;
  fs::rename(path_, destination_, error);
  if (error)
    throw environment_error(destination_.string(), "cannot be made: " + error.message(),
                            "check the permissions of the run's folder");
  finished_ = true;
  sync_folder(destination_.parent_path());
}

RunFolder::RunFolder(const RunOptions& options, bool resume) : paths_(run_paths(options)) {
  make_folder(paths_.root);
  lock_ = std::make_unique<FolderLock>(paths_.root);
  const std::vector<int64_t> checkpoints = step_folders(paths_.checkpoints());
  finished_ = !checkpoints.empty() && checkpoints.back() >= options.train.steps &&
              file_exists(paths_.lora());
  if (!resume) refuse();
  remove_leftovers();
}

RunFolder::~RunFolder() {
  lock_.reset();
  std::error_code ignored;
  fs::remove(paths_.root, ignored);  // succeeds for an empty folder only
}

void RunFolder::refuse() const {
  const std::string where = paths_.root.string();
  if (finished_ || file_exists(paths_.lora()))
    throw bad_input(where, "holds a finished run",
                    "give another output.path, or --resume with more train.steps to go on");
  if (has_content(paths_.metrics()) || !step_folders(paths_.checkpoints()).empty() ||
      !step_folders(paths_.samples()).empty())
    throw bad_input(where, "holds a run that is not finished",
                    "add --resume to go on with it, or give another output.path");
}

void RunFolder::remove_leftovers() const {
  for (const fs::path& folder : {paths_.checkpoints(), paths_.samples()})
    for (const fs::path& entry : entries(folder))
      if (entry.filename().string().starts_with(fmt::format(".{}", kPrefix))) remove_folder(entry);
  for (const fs::path& entry : entries(paths_.root)) {
    const std::string name = entry.filename().string();
    std::error_code ignored;
    if (name.starts_with('.') && name.ends_with(".tmp")) fs::remove(entry, ignored);
  }
}

void remove_old_checkpoints(const RunPaths& paths, const OutputOptions& output, int64_t steps,
                            int64_t best) {
  const std::vector<int64_t> all = step_folders(paths.checkpoints());
  const auto regular = [&](int64_t step) {
    return step == steps || (output.checkpoint_every > 0 && step % output.checkpoint_every == 0);
  };
  const int64_t keep = std::max<int64_t>(output.keep, 1);
  int64_t kept = 0;
  for (auto step = all.rbegin(); step != all.rend(); ++step) {
    const bool stays = regular(*step) ? kept < keep : step == all.rbegin();
    if (stays && regular(*step)) ++kept;
    if (!stays && *step != best) remove_whole(paths.checkpoint(*step));
  }
}

}  // namespace fluxlora::train
