// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assets.h"
#include "base/error.h"

namespace fluxlora {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kBuiltin = "builtin:";

std::string asset_name(const fs::path& path) {
  return path.string().substr(kBuiltin.size());
}

/// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

Error cannot_read(const fs::path& path, int code) {
  if (code == ENOENT || code == ENOTDIR)
    return bad_input(path.string(), "does not exist", "check the path");
  if (code == ELOOP)
    return bad_input(path.string(), "is a link that leads in a circle", "remove it");
  if (code == ENAMETOOLONG)
    return bad_input(path.string(), "is not a usable path", "check the path");
  if (code == EACCES || code == EPERM)
    return environment_error(path.string(), "may not be read", "check its permissions");
  return environment_error(path.string(), std::string("cannot be read: ") + std::strerror(code),
                           "check the disk and the path");
}

Error cannot_write(const fs::path& path, int code) {
  switch (code) {
    case ENOSPC:
    case EDQUOT:
      return environment_error(path.string(), "cannot be written, the disk is full",
                               "free some space or give another output folder");
    case EACCES:
    case EPERM:
    case EROFS:
      return environment_error(path.string(), "may not be written",
                               "give a folder that you may write to, or change its permissions");
    case ENOENT:
      return environment_error(path.string(), "cannot be written, its folder does not exist",
                               "make the folder " + path.parent_path().string());
    case ENOTDIR:
    case EEXIST:
      return environment_error(path.string(), "cannot be made, a file is in its place",
                               "move that file or give another path");
    case EISDIR:
      return environment_error(path.string(), "cannot be written, a folder has that name",
                               "give another name");
    case EFBIG:
      return environment_error(path.string(), "is larger than files may be here",
                               "raise the limit (ulimit -f) or give another disk");
    default:
      return environment_error(path.string(),
                               std::string("cannot be written: ") + std::strerror(code),
                               "check the disk, or give another output folder");
  }
}

void write_all(int fd, std::span<const std::byte> bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), std::min<size_t>(bytes.size(), 1u << 30));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw cannot_write(path, errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

/// Opens and locks a helper file. Its owner removes or renames it while holding the lock, so
/// whoever waited must look whether the file that it locked still has that name. Returns -1 with
/// errno set (EWOULDBLOCK: someone else holds it and `wait` is false).
int open_locked(const fs::path& path, bool wait) {
  while (true) {
    Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
    if (!file) return -1;
    int locked;
    do {
      locked = ::flock(file.get(), wait ? LOCK_EX : LOCK_EX | LOCK_NB);
    } while (locked != 0 && errno == EINTR);
    // A file system without locks (ENOLCK, EOPNOTSUPP) is used without them.
    if (locked != 0 && errno == EWOULDBLOCK) return -1;
    struct stat mine, named;
    if (::fstat(file.get(), &mine) != 0) return -1;
    if (::stat(path.c_str(), &named) == 0 && named.st_ino == mine.st_ino &&
        named.st_dev == mine.st_dev)
      return file.release();
  }
}

/// Length of the UTF-8 sequence at the start of `text`, 0 if there is none (RFC 3629: no overlong
/// forms, no surrogates, nothing above U+10FFFF).
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  const uint8_t second = byte(1);
  const bool bad = (first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
                   (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F);
  return bad ? 0 : length;
}

}  // namespace

bool is_builtin(const fs::path& path) {
  return path.native().starts_with(kBuiltin);
}

FileView map_file(const fs::path& path) {
  if (is_builtin(path)) {
    const auto asset = find_asset(asset_name(path));
    if (!asset)
      throw bad_input(path.string(), "is not built into this program",
                      "build it from a tree that has assets/" + asset_name(path));
    return {*asset, nullptr};
  }
  // O_NONBLOCK: a pipe without a writer must be refused, not waited for.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) throw cannot_read(path, errno);
  struct stat status;
  if (::fstat(file.get(), &status) != 0) throw cannot_read(path, errno);
  if (S_ISDIR(status.st_mode)) throw bad_input(path.string(), "is a folder", "give a file");
  if (!S_ISREG(status.st_mode))
    throw bad_input(path.string(), "is not an ordinary file", "give an ordinary file");
  const auto size = static_cast<size_t>(status.st_size);
  if (size == 0) return {};
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) throw cannot_read(path, errno);
  std::shared_ptr<const void> keep(data,
                                   [size](const void* p) { ::munmap(const_cast<void*>(p), size); });
  return {{static_cast<const std::byte*>(data), size}, std::move(keep)};
}

bool file_exists(const fs::path& path) {
  if (is_builtin(path)) return find_asset(asset_name(path)).has_value();
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

bool folder_exists(const fs::path& path) {
  if (is_builtin(path)) {
    std::string name = asset_name(path);
    if (!name.ends_with('/')) name += '/';
    return !asset_names(name).empty();
  }
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

size_t line_that_is_not_utf8(std::string_view text) {
  size_t line = 1;
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    if (length == 0) return line;
    if (text.front() == '\n') ++line;
    text.remove_prefix(length);
  }
  return 0;
}

std::string read_text(const fs::path& path, Encoding encoding) {
  const FileView view = map_file(path);
  std::string_view text = view.text();
  if (encoding == Encoding::utf8) {
    if (const size_t line = line_that_is_not_utf8(text))
      throw bad_input(path.string(), "line " + std::to_string(line) + " is not UTF-8",
                      "save the file as UTF-8");
    if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  }
  return std::string(text);
}

fs::path temporary_name(const fs::path& path) {
  std::string name = ".";
  name += path.filename().string();
  name += ".tmp";
  return path.parent_path() / name;
}

void write_file_atomically(const fs::path& path, const std::function<void(const ByteSink&)>& fill) {
  const fs::path temporary = temporary_name(path);
  const Descriptor file(open_locked(temporary, true));
  if (!file) throw cannot_write(path, errno);
  try {
    // What a crashed writer left is overwritten.
    if (::ftruncate(file.get(), 0) != 0) throw cannot_write(path, errno);
    fill([&](std::span<const std::byte> bytes) { write_all(file.get(), bytes, path); });
    if (::fsync(file.get()) != 0) throw cannot_write(path, errno);
    if (::rename(temporary.c_str(), path.c_str()) != 0) throw cannot_write(path, errno);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_folder(folder_of(path));
}

void write_file_atomically(const fs::path& path, std::span<const std::byte> bytes) {
  write_file_atomically(path, [&](const ByteSink& sink) { sink(bytes); });
}

void write_file_atomically(const fs::path& path, std::string_view text) {
  write_file_atomically(path, std::as_bytes(std::span(text)));
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw cannot_write(folder, error.value());
  if (!fs::is_directory(folder, error)) throw cannot_write(folder, ENOTDIR);
}

void sync_folder(const fs::path& folder) {
  const Descriptor file(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some file systems cannot sync a folder (EINVAL); there is nothing better to do there.
  if (file && ::fsync(file.get()) != 0 && errno != EINVAL) throw cannot_write(folder, errno);
}

FolderLock::FolderLock(const fs::path& folder) : path_(folder / ".lock") {
  descriptor_ = open_locked(path_, false);
  if (descriptor_ >= 0) return;
  if (errno == EWOULDBLOCK)
    throw bad_input(folder.string(), "is in use by another run",
                    "wait for it, stop it, or give another output.path");
  throw cannot_write(path_, errno);
}

FolderLock::~FolderLock() {
  ::unlink(path_.c_str());
  ::close(descriptor_);
}

}  // namespace fluxlora
