// SPDX-License-Identifier: Apache-2.0
// Runs the program as a user does and keeps what it said.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include <sys/wait.h>

#include "base/file.h"

namespace fluxlora {

struct Ran {
  int status = -1;  ///< exit status, or 128 + the signal
  std::string out, err;
};

/// `arguments` are a piece of shell. Files for its output are made in `folder`; `device` takes what
/// it prints instead, if given.
inline Ran run_program(const std::string& arguments, const std::filesystem::path& folder,
                       const std::string& device = "") {
  const auto out = device.empty() ? folder / "stdout.txt" : std::filesystem::path(device);
  const auto err = folder / "stderr.txt";
  const std::string line = std::string("'") + FLUXLORA_PROGRAM + "' " + arguments + " > '" +
                           out.string() + "' 2> '" + err.string() + "' < /dev/null";
  const int code = std::system(line.c_str());
  Ran ran;
  ran.status = WIFEXITED(code) ? WEXITSTATUS(code) : 128 + WTERMSIG(code);
  if (device.empty()) ran.out = read_text(out, Encoding::any);
  ran.err = read_text(err, Encoding::any);
  return ran;
}

}  // namespace fluxlora
