// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>

#include <unistd.h>

#include "base/error.h"

namespace fluxlora {
namespace {

struct State {
  std::mutex mutex;
  LogLevel shown = LogLevel::info;
  std::string progress;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file{nullptr, std::fclose};
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
};

State& state() {
  static State the_state;
  return the_state;
}

void print(std::FILE* file, const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), file);
  std::fflush(file);
}

constexpr const char* kEraseLine = "\r\x1b[K";

}  // namespace

void log(LogLevel level, std::string_view line) {
  std::string text;
  if (level == LogLevel::warning) text = "warning: ";
  if (level == LogLevel::error) text = "error: ";
  text += line;
  if (!text.ends_with('\n')) text += '\n';

  State& s = state();
  std::lock_guard lock(s.mutex);
  if (level >= s.shown) print(stderr, s.progress.empty() ? text : kEraseLine + text + s.progress);
  // A log that can no longer be written must not end a training run: errors are ignored here.
  if (s.file && level >= LogLevel::info) print(s.file.get(), text);
}

void set_log_level(LogLevel level) {
  std::lock_guard lock(state().mutex);
  state().shown = level;
}

void show_progress(std::string_view line) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (!s.terminal || (line.empty() && s.progress.empty())) return;
  s.progress = line;
  print(stderr, kEraseLine + s.progress);
}

void open_log_file(const std::filesystem::path& path) {
  std::FILE* file = std::fopen(path.c_str(), "ae");
  if (!file)
    throw environment_error(path.string(),
                            std::string("cannot be written: ") + std::strerror(errno),
                            "give an output folder that you may write to");
  std::lock_guard lock(state().mutex);
  state().file.reset(file);
}

void close_log_file() {
  std::lock_guard lock(state().mutex);
  state().file.reset();
}

}  // namespace fluxlora
