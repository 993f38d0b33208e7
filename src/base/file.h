// SPDX-License-Identifier: Apache-2.0
// Files: read as views, written whole or not at all. A path that begins with "builtin:" names a
// file inside the program (base/assets.h), so that the built-in model is read like any other
// folder.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace fluxlora {

/// The bytes of a file, alive as long as `keep` or a copy of it.
struct FileView {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> keep;

  std::string_view text() const {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
};

/// Whether the path begins with "builtin:".
bool is_builtin(const std::filesystem::path& path);

/// Maps an ordinary file, or gives the embedded one. Throws Error (bad_input) when there is none or
/// it is a folder, a pipe or a device; Error (environment) when it cannot be opened.
FileView map_file(const std::filesystem::path& path);

/// Whether there is an ordinary file (or an embedded one) of this name.
bool file_exists(const std::filesystem::path& path);

/// Whether there is a folder of this name, or an embedded file below it.
bool folder_exists(const std::filesystem::path& path);

/// Line of the first byte that is not UTF-8, counted from 1; 0 when all of it is.
size_t line_that_is_not_utf8(std::string_view text);

enum class Encoding { utf8, any };

/// The whole file. With Encoding::utf8 throws Error (bad_input) that names the line which is not
/// UTF-8; a byte order mark is dropped.
std::string read_text(const std::filesystem::path& path, Encoding encoding = Encoding::utf8);

/// Takes the pieces of a file in their order.
using ByteSink = std::function<void(std::span<const std::byte>)>;

/// Writes `.NAME.tmp` beside the file, syncs it, renames it over NAME and syncs the folder: after a
/// crash there is the old file or the new one. On any failure, an exception of `fill` included, the
/// temporary is removed and NAME untouched. Two writers of one file wait for each other. Throws
/// Error (environment) when the disk is full, the folder missing or not writable.
void write_file_atomically(const std::filesystem::path& path,
                           const std::function<void(const ByteSink&)>& fill);
void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// The name under which write_file_atomically prepares `path`.
std::filesystem::path temporary_name(const std::filesystem::path& path);

/// Makes the folder and its parents; nothing if it is there. Throws Error (environment).
void make_folder(const std::filesystem::path& folder);

/// Makes names that were created, renamed or removed in `folder` survive a crash.
void sync_folder(const std::filesystem::path& folder);

/// Holds a run's folder for this process: a lock on FOLDER/.lock, gone with the process however it
/// ends. Throws Error (bad_input) when another process holds it.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace fluxlora
