// SPDX-License-Identifier: Apache-2.0
// Errors: what went wrong, where, and what to do about it. Thrown anywhere, caught once in
// cli/main.cpp.
#pragma once

#include <stdexcept>
#include <string>

namespace fluxlora {

/// Decides the exit status of the program (docs/design.md, "exit status").
enum class ErrorKind {
  internal = 1,     ///< a fault of the program
  bad_input = 2,    ///< something that the user gave is wrong
  environment = 3,  ///< no GPU, memory, disk, permission
};

/// A fault that a person can act on. `where` names the file, key or option, `what` says what is
/// wrong with it, `hint` says what to do. Each is one line without a full stop.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, std::string where, std::string what, std::string hint);

  ErrorKind kind() const { return kind_; }
  const std::string& where() const { return where_; }
  const std::string& message() const { return what_; }
  const std::string& hint() const { return hint_; }

  /// The two lines that a person reads: "error: WHERE: WHAT" and "hint: WHAT TO DO".
  std::string two_lines() const;

 private:
  ErrorKind kind_;
  std::string where_, what_, hint_;
};

/// Shorthands: `throw bad_input("photos/", "is not a folder", "give the folder of your pictures")`.
Error bad_input(std::string where, std::string what, std::string hint);
Error environment_error(std::string where, std::string what, std::string hint);

/// Aborts the run as a fault of the program. Never reachable by user input.
[[noreturn]] void check_failed(const char* condition, const char* file, int line,
                               const std::string& detail);

}  // namespace fluxlora

/// Programmer errors only: `CHECK(x.dim(2) == D, "ln_modulate: width")`.
#define CHECK(condition, detail)                                                        \
  do {                                                                                  \
    if (!(condition)) ::fluxlora::check_failed(#condition, __FILE__, __LINE__, detail); \
  } while (false)
