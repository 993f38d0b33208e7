// SPDX-License-Identifier: Apache-2.0
// The small rooms of base: hashes, the log, signals, the embedded files.
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <set>

#include "base/assets.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/signal.h"
#include "unit/expect_error.h"
#include "unit/temporary_folder.h"

namespace fluxlora {
namespace {

// FIPS 180-4 example values (NIST CSRC, "SHA256.pdf") and the long message of one million "a".
TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(sha256_hex(std::string_view("")),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex(std::string_view("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 pieces;
  for (int i = 0; i < 1000; ++i) pieces.update(std::string(1000, 'a'));
  EXPECT_EQ(pieces.hex(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(pieces.update(std::string_view("abc")).hex(), sha256_hex(std::string_view("abc")));
}

TEST(Sha256, OfAFile) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "f", "abc");
  EXPECT_EQ(sha256_of_file(folder / "f"), sha256_hex(std::string_view("abc")));
  EXPECT_ERROR(sha256_of_file(folder / "g"), bad_input, "g", "does not exist");
}

TEST(Log, LinesReachStderrAndTheFile) {
  const TemporaryFolder folder;
  open_log_file(folder / "log.txt");
  ::testing::internal::CaptureStderr();
  log_info("step 1");
  log_warning("small pictures");
  log_debug("not shown");
  set_log_level(LogLevel::warning);
  log_info("only in the file");
  log(LogLevel::error, "bad\n");
  set_log_level(LogLevel::info);
  show_progress("50 %");  // no terminal here
  close_log_file();
  log_info("only on stderr");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "step 1\nwarning: small pictures\nerror: bad\nonly on stderr\n");
  EXPECT_EQ(read_text(folder / "log.txt"),
            "step 1\nwarning: small pictures\nonly in the file\nerror: bad\n");
  open_log_file(folder / "log.txt");
  log_info("resumed");
  close_log_file();
  EXPECT_THAT(read_text(folder / "log.txt"), ::testing::EndsWith("error: bad\nresumed\n"));
  EXPECT_ERROR(open_log_file(folder / "no" / "log.txt"), environment, "log.txt", "cannot be");
}

TEST(SignalDeathTest, TheFirstAsksTheSecondLeaves) {
  for (const int number : {SIGINT, SIGTERM}) {
    EXPECT_EXIT(
        {
          install_signal_handlers();
          if (stop_requested() || stop_signal() != 0) std::_Exit(1);
          std::raise(number);
          if (!stop_requested() || stop_signal() != number) std::_Exit(2);
          std::raise(number);
          std::_Exit(3);
        },
        ::testing::ExitedWithCode(128 + number), "");
  }
}

// A product of oneDNN that is interrupted must find its memory as it left it: the handler may not
// use the stack of the thread that it interrupts, and only the main thread has another one.
TEST(SignalDeathTest, HandlersHaveAStackOfTheirOwn) {
  EXPECT_EXIT(
      {
        install_signal_handlers();
        for (const int number : {SIGINT, SIGTERM}) {
          struct sigaction action = {};
          sigaction(number, nullptr, &action);
          if (!(action.sa_flags & SA_ONSTACK)) std::_Exit(1);
        }
        stack_t stack = {};
        sigaltstack(nullptr, &stack);
        if ((stack.ss_flags & SS_DISABLE) || stack.ss_size < 65536) std::_Exit(2);
        std::atomic<int> open_workers{0};
        set_thread_count(3);
        parallel_for(3, 1, [&](int64_t, int64_t) {
          sigset_t blocked;
          pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
          const bool both = sigismember(&blocked, SIGINT) && sigismember(&blocked, SIGTERM);
          if (both != (thread_index() != 0)) ++open_workers;
        });
        std::_Exit(open_workers ? 3 : 0);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST(SignalDeathTest, TheFirstOneIsRemembered) {
  EXPECT_EXIT(
      {
        install_signal_handlers();
        std::raise(SIGTERM);
        std::_Exit(stop_signal());
      },
      ::testing::ExitedWithCode(SIGTERM), "");
}

TEST(Assets, AreAllFilesOfTheBuiltinModel) {
  const std::filesystem::path root = std::filesystem::path(FLUXLORA_SOURCE_DIR) / "assets";
  std::set<std::string> expected;
  if (std::filesystem::exists(root / "tiny-flux"))
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root / "tiny-flux"))
      if (entry.is_regular_file() && !entry.path().filename().string().starts_with('.') &&
          entry.path().extension() != ".tmp")
        expected.insert(std::filesystem::relative(entry.path(), root).string());
  const auto names = asset_names("tiny-flux/");
  EXPECT_EQ(std::set(names.begin(), names.end()), expected);
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  EXPECT_FALSE(find_asset("").has_value());
  EXPECT_FALSE(find_asset("../CMakeLists.txt").has_value());
}

}  // namespace
}  // namespace fluxlora
