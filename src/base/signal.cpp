// SPDX-License-Identifier: Apache-2.0
#include "base/signal.h"

#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>

#include <unistd.h>

namespace fluxlora {
namespace {

std::atomic<int> first_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may not take locks");

// Of the thread that installs the handlers, the main one, which the kernel prefers. The frame holds
// all vector and tile registers, some 12 KiB.
alignas(64) std::array<std::byte, 65536> handler_stack;

extern "C" void on_signal(int number) {
  int none = 0;
  if (first_signal.compare_exchange_strong(none, number)) return;
  _exit(128 + number);
}

}  // namespace

void leave_signals_to_main_thread() {
  sigset_t both;
  sigemptyset(&both);
  sigaddset(&both, SIGINT);
  sigaddset(&both, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &both, nullptr);
}

void install_signal_handlers() {
  // The handler runs on a stack of its own: oneDNN's generated kernels use the stack pointer as an
  // ordinary register, and a signal frame written where it points would land in the heap.
  stack_t stack = {};
  stack.ss_sp = handler_stack.data();
  stack.ss_size = handler_stack.size();
  sigaltstack(&stack, nullptr);

  struct sigaction action = {};
  action.sa_handler = on_signal;
  // Interrupted reads and writes go on: the stop is taken at the end of the step.
  action.sa_flags = SA_RESTART | SA_ONSTACK;
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
