// SPDX-License-Identifier: Apache-2.0
// What is wrong with pictures, why that hurts, and what to do.
#pragma once

#include <string>
#include <vector>

namespace fluxlora::prepare {

/// One thing that a person should know before training.
struct Finding {
  std::string kind;                   ///< one word for programs: "broken", "small", "blurred" ...
  std::vector<std::string> pictures;  ///< names of the files it is about; empty: all together
  std::string reason, remedy;         ///< each without a full stop
  bool left_out = false;              ///< the pictures cannot be used

  /// "a.jpg, b.jpg and 3 more: REASON; REMEDY", without control characters.
  std::string line() const;
};

/// A file's name as text: bytes that are not UTF-8 and control characters become question marks.
std::string shown_name(const std::string& name);

}  // namespace fluxlora::prepare
