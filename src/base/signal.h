// SPDX-License-Identifier: Apache-2.0
// Signals: the first SIGINT or SIGTERM asks the run to finish its step, save and leave; the second
// leaves at once.
#pragma once

namespace fluxlora {

/// Takes over SIGINT and SIGTERM for the rest of the process. To be called by the main thread.
void install_signal_handlers();

/// Called by every thread that computes: it never sees the two signals.
void leave_signals_to_main_thread();

/// Whether a signal came. Cheap enough for every step.
bool stop_requested();

/// Which one (SIGINT, SIGTERM), or 0. The exit status is 128 plus it: 130 or 143.
int stop_signal();

}  // namespace fluxlora
