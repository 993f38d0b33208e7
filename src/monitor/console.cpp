// SPDX-License-Identifier: Apache-2.0
#include "monitor/console.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"

namespace fluxlora::monitor {
namespace {

constexpr double kLossWeight = 1. / 40, kSecondsWeight = 1. / 20;
constexpr std::chrono::seconds kPlainLineEvery{10};

/// Columns of the terminal behind stderr; a common width when it does not tell.
size_t terminal_width() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

class Console : public Sink {
 public:
  void on_step(const StepEvent& event) override {
    loss_.add(event.loss);
    if (seen_++ > 0) seconds_.add(event.seconds);
    const std::string line =
        progress_text(event, loss_.mean().value_or(event.loss), seconds_.mean());
    if (terminal_) {
      show_progress(line.substr(0, terminal_width() - 1));
      return;
    }
    const auto now = std::chrono::steady_clock::now();
    if (seen_ > 1 && event.step < event.steps && now - last_line_ < kPlainLineEvery) return;
    last_line_ = now;
    log_info(line);
  }

  void on_validation(const ValidationEvent& event) override {
    log_info(fmt::format("step {}: validation loss {:.4f}{}{}", event.step, event.loss,
                         event.step ? fmt::format(" (untrained {:.4f})", event.base) : "",
                         event.drift ? fmt::format(", drift {:.4f}", *event.drift) : ""));
  }

  void on_note(const std::string& note) override { log_info(note); }

  void on_end(const std::string& reason) override {
    show_progress("");
    log_info(reason);
  }

 private:
  const bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  Smoothed loss_{kLossWeight}, seconds_{kSecondsWeight};
  int64_t seen_ = 0;
  std::chrono::steady_clock::time_point last_line_;
};

}  // namespace

std::unique_ptr<Sink> make_console() {
  return std::make_unique<Console>();
}

std::string progress_text(const StepEvent& event, double loss, std::optional<double> seconds) {
  std::string text = fmt::format("step {}/{}  loss {:.4f}", event.step, event.steps, loss);
  if (seconds) {
    const double left = *seconds * static_cast<double>(event.steps - event.step);
    text += fmt::format(
        "  {} s/step  {} left",
        *seconds < 10 ? fmt::format("{:.2f}", *seconds) : fmt::format("{:.1f}", *seconds),
        format_duration(left));
  }
  return text + fmt::format("  lr {:.2e}", event.learning_rate);
}

std::string format_duration(double seconds) {
  constexpr double kLongest = 1e9;  // 31 years
  if (!std::isfinite(seconds)) return "?";
  const auto whole = std::llround(std::clamp(seconds, 0., kLongest));
  const auto minutes = whole / 60 % 60, hours = whole / 3600 % 24, days = whole / 86400;
  const auto clock = [&](auto h) { return fmt::format("{}:{:02}:{:02}", h, minutes, whole % 60); };
  if (days > 0) return fmt::format("{} day{} {}", days, days == 1 ? "" : "s", clock(hours));
  if (hours > 0) return clock(hours);
  return fmt::format("{}:{:02}", minutes, whole % 60);
}

void Smoothed::add(double value) {
  if (!std::isfinite(value)) return;
  // Dividing by the sum of the weights makes the first values count alike instead of pulling the
  // mean towards 0 (the bias correction of Kingma and Ba 2015).
  sum_ += weight_ * (value - sum_);
  total_ += weight_ * (1 - total_);
}

std::optional<double> Smoothed::mean() const {
  if (total_ == 0) return std::nullopt;
  return sum_ / total_;
}

}  // namespace fluxlora::monitor
