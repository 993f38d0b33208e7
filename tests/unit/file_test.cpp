// SPDX-License-Identifier: Apache-2.0
// Files are read whole, written whole or not at all, and locked against a second run.
#include "base/file.h"

#include <atomic>
#include <csignal>
#include <fstream>
#include <thread>

#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assets.h"
#include "unit/expect_error.h"
#include "unit/temporary_folder.h"

namespace fluxlora {
namespace {

void put(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

TEST(File, MapsWhatIsThere) {
  const TemporaryFolder folder;
  put(folder / "a", std::string("x\0y", 3));
  put(folder / "empty", "");
  EXPECT_EQ(map_file(folder / "a").text(), std::string_view("x\0y", 3));
  EXPECT_EQ(map_file(folder / "empty").text(), "");
  EXPECT_TRUE(file_exists(folder / "a"));
  EXPECT_FALSE(file_exists(folder.path()));
  EXPECT_FALSE(file_exists(folder / "b"));
  EXPECT_TRUE(folder_exists(folder.path()));
}

TEST(File, RefusesWhatIsNoFile) {
  const TemporaryFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_ERROR(map_file(folder / "none"), bad_input, "none", "does not exist");
  EXPECT_ERROR(map_file(folder.path()), bad_input, "RefusesWhatIsNoFile", "is a folder");
  EXPECT_ERROR(map_file(folder / "pipe"), bad_input, "pipe", "not an ordinary file");
  EXPECT_ERROR(map_file("/dev/zero"), bad_input, "/dev/zero", "not an ordinary file");
  EXPECT_ERROR(map_file(folder / std::string(300, 'n')), bad_input, "nnn", "not a usable path");
}

TEST(File, BuiltinNamesReadTheAssetsOfTheProgram) {
  const std::filesystem::path root = std::filesystem::path(FLUXLORA_SOURCE_DIR) / "assets";
  const std::filesystem::path builtin = "builtin:";
  for (const std::string& name : asset_names("")) {
    const FileView view = map_file("builtin:" + name);
    EXPECT_EQ(view.text(), map_file(root / name).text()) << name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.bytes.data()) % 64, 0u) << name;
  }
  if (std::filesystem::exists(root / "tiny-flux" / "model_index.json")) {
    EXPECT_TRUE(file_exists(std::filesystem::path("builtin:tiny-flux") / "vae" / "config.json"));
    EXPECT_TRUE(file_exists("builtin:tiny-flux//vae/./config.json"));
    EXPECT_TRUE(folder_exists("builtin:tiny-flux"));
    EXPECT_TRUE(folder_exists("builtin:tiny-flux/vae/"));
  }
  EXPECT_FALSE(file_exists("builtin:no/such"));
  EXPECT_FALSE(folder_exists("builtin:no"));
  EXPECT_ERROR(map_file("builtin:no/such"), bad_input, "builtin:no/such", "not built into");
}

TEST(File, ReadTextNamesTheLineThatIsNotUtf8) {
  const TemporaryFolder folder;
  put(folder / "good", "\xEF\xBB\xBFgr\xC3\xBC\xC3\x9F\n\xF0\x9F\x98\x80");
  EXPECT_EQ(read_text(folder / "good"), "gr\xC3\xBC\xC3\x9F\n\xF0\x9F\x98\x80");
  put(folder / "bad",
      "one\ntwo\nthr\xE9"
      "e\n");
  EXPECT_ERROR(read_text(folder / "bad"), bad_input, "bad", "line 3 is not UTF-8");
  EXPECT_EQ(read_text(folder / "bad", Encoding::any),
            "one\ntwo\nthr\xE9"
            "e\n");
}

TEST(File, Utf8FollowsRfc3629) {
  for (const char* good : {"", "a", "\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF",
                           "\xEE\x80\x80", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"})
    EXPECT_EQ(line_that_is_not_utf8(good), 0u) << good;
  for (const char* bad :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xC3", "\xC3(", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xE2\x82",
        "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "a\xE2\x28\xA1"})
    EXPECT_EQ(line_that_is_not_utf8(bad), 1u) << bad;
}

TEST(File, WritesWhole) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "a", "first");
  write_file_atomically(folder / "a", [](const ByteSink& sink) {
    for (const char* piece : {"se", "co", "nd"})
      sink(std::as_bytes(std::span(std::string_view(piece))));
  });
  EXPECT_EQ(read_text(folder / "a"), "second");
  EXPECT_EQ(folder.count(), 1);
}

TEST(File, WhatACrashedWriterLeftIsOverwritten) {
  const TemporaryFolder folder;
  put(temporary_name(folder / "a"), "a long piece of an older attempt");
  write_file_atomically(folder / "a", "new");
  EXPECT_EQ(read_text(folder / "a"), "new");
  EXPECT_EQ(folder.count(), 1);
}

TEST(File, AFailureKeepsTheOldFileAndLeavesNothing) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "a", "old");
  const auto fill = [](const ByteSink& sink) {
    sink(std::as_bytes(std::span(std::string_view("half"))));
    throw std::runtime_error("stop");
  };
  EXPECT_THROW(write_file_atomically(folder / "a", fill), std::runtime_error);
  EXPECT_EQ(read_text(folder / "a"), "old");
  EXPECT_EQ(folder.count(), 1);
}

TEST(File, SaysWhyAPlaceCannotBeWritten) {
  const TemporaryFolder folder;
  put(folder / "file", "");
  EXPECT_ERROR(write_file_atomically(folder / "no" / "a", "x"), environment, "a",
               "its folder does not exist");
  EXPECT_ERROR(write_file_atomically(folder / "file" / "a", "x"), environment, "a",
               "a file is in its place");
  EXPECT_ERROR(write_file_atomically("/sys/fluxlora", "x"), environment, "/sys/fluxlora",
               "may not be written");
  std::filesystem::create_directory(folder / "taken");
  EXPECT_ERROR(write_file_atomically(folder / "taken", "x"), environment, "taken",
               "a folder has that name");
  EXPECT_ERROR(make_folder(folder / "file" / "sub"), environment, "sub", "a file is in its place");
  EXPECT_ERROR(make_folder(folder / "file"), environment, "file", "a file is in its place");
  EXPECT_EQ(folder.count(), 2);
}

/// Runs `body` in a child process, which may change its limits and mounts. 0: all was well; 77: the
/// machine does not allow the set-up; another status is what failed.
int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

int expect_failed_write(const std::filesystem::path& folder, std::string_view what) {
  write_file_atomically(folder / "a", "old");
  const std::string big(1 << 20, 'x');
  try {
    write_file_atomically(folder / "a", big);
    return 1;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::environment) return 2;
    if (error.message().find(what) == std::string::npos) return 3;
  }
  if (read_text(folder / "a") != "old") return 4;
  return std::filesystem::exists(temporary_name(folder / "a")) ? 5 : 0;
}

TEST(File, AFullDiskKeepsTheOldFile) {
  const TemporaryFolder folder;
  const int status = in_child([&] {
    const bool mounted =
        (::unshare(CLONE_NEWNS) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) &&
        ::mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=128k") == 0;
    return mounted ? expect_failed_write(folder.path(), "the disk is full") : 77;
  });
  if (status == 77) GTEST_SKIP() << "no small file system can be mounted here";
  EXPECT_EQ(status, 0);
}

TEST(File, ALimitOnTheSizeOfFilesKeepsTheOldFile) {
  const TemporaryFolder folder;
  EXPECT_EQ(in_child([&] {
              ::signal(SIGXFSZ, SIG_IGN);
              const rlimit limit{65536, 65536};
              ::setrlimit(RLIMIT_FSIZE, &limit);
              return expect_failed_write(folder.path(), "is larger than files may be");
            }),
            0);
}

TEST(File, TwoWritersOfOneFileDoNotMix) {
  const TemporaryFolder folder;
  const std::string letters[2] = {std::string(100'000, 'a'), std::string(70'000, 'b')};
  write_file_atomically(folder / "f", letters[0]);
  std::atomic<int> running{2};
  std::vector<std::thread> writers;
  for (const std::string& text : letters)
    writers.emplace_back([&] {
      for (int i = 0; i < 20; ++i) write_file_atomically(folder / "f", text);
      --running;
    });
  while (running > 0) {
    const std::string seen = read_text(folder / "f");
    EXPECT_TRUE(seen == letters[0] || seen == letters[1]) << seen.size() << " bytes";
  }
  for (auto& writer : writers) writer.join();
  EXPECT_EQ(folder.count(), 1);
}

TEST(FolderLock, KeepsASecondRunOut) {
  const TemporaryFolder folder;
  {
    const FolderLock lock(folder.path());
    EXPECT_ERROR(FolderLock second(folder.path()), bad_input, "KeepsASecondRunOut",
                 "in use by another run");
    EXPECT_EQ(in_child([&] {
                try {
                  const FolderLock second(folder.path());
                } catch (const Error&) {
                  return 0;
                }
                return 1;
              }),
              0);
  }
  const FolderLock again(folder.path());
  EXPECT_ERROR(FolderLock nowhere(folder / "none"), environment, ".lock",
               "its folder does not exist");
}

TEST(FolderLock, EndsWithItsProcess) {
  const TemporaryFolder folder;
  EXPECT_EQ(in_child([&] {
              new FolderLock(folder.path());  // never released, as after a crash
              return 7;
            }),
            7);
  EXPECT_TRUE(std::filesystem::exists(folder / ".lock"));
  const FolderLock lock(folder.path());
}

}  // namespace
}  // namespace fluxlora
