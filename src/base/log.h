// SPDX-License-Identifier: Apache-2.0
// Log: the one place that prints to stderr, for people. Plain lines, also into a run's log.txt.
#pragma once

#include <filesystem>
#include <string_view>

namespace fluxlora {

enum class LogLevel { debug, info, warning, error };

/// Prints one line ("warning: ..." for warnings, "error: ..." for errors) if the level is shown.
/// Threads may log at the same time; lines do not mix.
void log(LogLevel level, std::string_view line);

inline void log_debug(std::string_view line) {
  log(LogLevel::debug, line);
}
inline void log_info(std::string_view line) {
  log(LogLevel::info, line);
}
inline void log_warning(std::string_view line) {
  log(LogLevel::warning, line);
}

/// Lowest level that stderr shows; info at the start. A log file gets info and above in any case.
void set_log_level(LogLevel level);

/// A line that is replaced by the next one: progress. Shown on a terminal only, never in the file;
/// it stays below the lines that are logged. Empty removes it.
void show_progress(std::string_view line);

/// From now on lines are appended to `path` too. Throws Error (environment).
void open_log_file(const std::filesystem::path& path);
void close_log_file();

}  // namespace fluxlora
