// SPDX-License-Identifier: Apache-2.0
// picture_dump IN OUT.png [W H]: a picture file as fluxlora sees it, cropped and resized if a size
// is given. test_pictures.py compares it with Pillow. Warnings go to stdout, Errors as in the
// program.
#include <cstdlib>
#include <iostream>

#include "base/error.h"
#include "data/resize.h"

int main(int argc, char** argv) {
  using namespace fluxlora;
  if (argc != 3 && argc != 5) {
    std::cerr << "usage: picture_dump IN OUT.png [W H]\n";
    return 2;
  }
  try {
    std::vector<std::string> warnings;
    ReadOptions options;
    options.warnings = &warnings;
    Picture picture = read_picture(argv[1], options);
    for (const std::string& warning : warnings) std::cout << warning << '\n';
    if (argc == 5) picture = centre_crop(picture, {std::atoi(argv[3]), std::atoi(argv[4])});
    write_png(argv[2], picture);
  } catch (const Error& error) {
    std::cerr << error.two_lines() << '\n';
    return static_cast<int>(error.kind());
  }
  return 0;
}
