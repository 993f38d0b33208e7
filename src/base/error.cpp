// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <utility>

namespace fluxlora {

Error::Error(ErrorKind kind, std::string where, std::string what, std::string hint)
    : std::runtime_error(where + ": " + what),
      kind_(kind),
      where_(std::move(where)),
      what_(std::move(what)),
      hint_(std::move(hint)) {}

std::string Error::two_lines() const {
  const auto one_line = [](std::string text) {
    // The name of a file may hold anything but a zero byte and a slash.
    for (char& c : text)
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
    return text;
  };
  return one_line("error: " + where_ + ": " + what_) + "\n" + one_line("hint: " + hint_) + "\n";
}

Error bad_input(std::string where, std::string what, std::string hint) {
  return {ErrorKind::bad_input, std::move(where), std::move(what), std::move(hint)};
}

Error environment_error(std::string where, std::string what, std::string hint) {
  return {ErrorKind::environment, std::move(where), std::move(what), std::move(hint)};
}

void check_failed(const char* condition, const char* file, int line, const std::string& detail) {
  throw Error(ErrorKind::internal, std::string(file) + ":" + std::to_string(line),
              detail + " (" + condition + " does not hold)",
              "this is a fault of fluxlora; please report it with the command that you ran");
}

}  // namespace fluxlora
