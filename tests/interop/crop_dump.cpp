// SPDX-License-Identifier: Apache-2.0
// crop_dump PICTURE...: a line each, "x y width height found_by" of the square crop to its subject.
#include <iostream>

#include "base/error.h"
#include "prepare/subject.h"

int main(int count, char** names) {
  using namespace fluxlora;
  SubjectFinder finder;
  try {
    for (int i = 1; i < count; ++i) {
      const auto [box, found_by] = finder.find(read_picture(names[i]));
      std::cout << box.x << ' ' << box.y << ' ' << box.width << ' ' << box.height << ' '
                << word_for(found_by) << '\n';
    }
  } catch (const Error& error) {
    std::cerr << error.what() << '\n';
    return 2;
  }
}
