// SPDX-License-Identifier: Apache-2.0
#include "base/signal.h"

#include <atomic>
#include <csignal>
#include <cstddef>

#include <unistd.h>

namespace fluxlora {
namespace {

std::atomic<int> first_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may not take locks");

extern "C" void on_signal(int number) {
  int none = 0;
  if (first_signal.compare_exchange_strong(none, number)) return;
  _exit(128 + number);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  // Interrupted reads and writes go on: the stop is taken at the end of the step.
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool stop_requested() {
  return first_signal.load(std::memory_order_relaxed) != 0;
}

int stop_signal() {
  return first_signal.load(std::memory_order_relaxed);
}

}  // namespace fluxlora
