// SPDX-License-Identifier: Apache-2.0
// The folder of a run: who may write into it, what lies in it, where to go on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "train/options.h"

namespace fluxlora::train {

/// Names in a run's folder (docs/design.md, "a run's folder").
struct RunPaths {
  std::filesystem::path root;
  std::string name;  ///< subject.name

  std::filesystem::path config() const { return root / "config.toml"; }
  std::filesystem::path metrics() const { return root / "metrics.jsonl"; }
  std::filesystem::path log() const { return root / "log.txt"; }
  std::filesystem::path report() const { return root / "report.html"; }
  std::filesystem::path before_after() const { return root / "before_after.png"; }
  std::filesystem::path lora() const { return root / (name + ".safetensors"); }
  std::filesystem::path checkpoints() const { return root / "checkpoints"; }
  std::filesystem::path samples() const { return root / "samples"; }
  std::filesystem::path checkpoint(int64_t step) const { return checkpoints() / step_name(step); }
  std::filesystem::path samples(int64_t step) const { return samples() / step_name(step); }

  /// "step-000500".
  static std::string step_name(int64_t step);
};

/// `output.path`, or runs/<subject.name>.
RunPaths run_paths(const RunOptions& options);

/// Steps of the step-NNNNNN folders in `folder`, ascending.
std::vector<int64_t> step_folders(const std::filesystem::path& folder);

/// A folder that appears whole or not at all: it is filled under ".NAME", synced and renamed.
class FolderInTheMaking {
 public:
  /// Makes the dot-folder, empty; whatever had its name is gone.
  explicit FolderInTheMaking(std::filesystem::path destination);
  /// Removes the dot-folder unless it was finished.
  ~FolderInTheMaking();
  FolderInTheMaking(const FolderInTheMaking&) = delete;
  FolderInTheMaking& operator=(const FolderInTheMaking&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Gives it its name; an older folder of that name is replaced.
  void finish();

 private:
  std::filesystem::path destination_, path_;
  bool finished_ = false;
};

/// The folder held for one run, from before its first step to its end.
class RunFolder {
 public:
  /// Without `resume` refuses a folder in which a run lies: a finished one with the hint to use
  /// --resume or another path, an unfinished one asking for --resume. What an interrupted writer
  /// left is removed. Throws Error (bad_input; environment where it cannot be written).
  RunFolder(const RunOptions& options, bool resume);
  /// Lets it go; a folder in which nothing was put is removed.
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const RunPaths& paths() const { return paths_; }
  /// Whether training and export are complete for `train.steps`.
  bool finished() const { return finished_; }

 private:
  void refuse() const;
  void remove_leftovers() const;

  RunPaths paths_;
  bool finished_ = false;
  std::unique_ptr<FolderLock> lock_;
};

/// Keeps the newest `keep` regular checkpoints, the newest of all, and that of step `best`. Regular
/// are those at multiples of `every` and at the last step; others come from interruptions and only
/// serve to go on, or were the best for a while.
void remove_old_checkpoints(const RunPaths& paths, const OutputOptions& output, int64_t steps,
                            int64_t best);

}  // namespace fluxlora::train
