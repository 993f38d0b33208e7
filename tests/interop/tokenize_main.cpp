// SPDX-License-Identifier: Apache-2.0
// tokenize_dump clip|t5|bart FOLDER LENGTH: ids of the texts on stdin, a line each, for
// test_tokenizers.py. A text comes as its number of bytes, a line feed and the bytes, so that it
// may hold anything. LENGTH 0 means as long as the text needs.
#include <cstdio>
#include <iostream>
#include <string>

#include "base/error.h"
#include "tokenizer/tokenizer.h"

int main(int argc, char** argv) try {
  if (argc != 4) return 2;
  const std::string kind = argv[1];
  const std::unique_ptr<fluxlora::Tokenizer> tokenizer =
      kind == "clip"   ? fluxlora::open_clip_tokenizer(argv[2])
      : kind == "bart" ? fluxlora::open_bart_tokenizer(argv[2])
                       : fluxlora::open_t5_tokenizer(argv[2]);
  const int length = std::stoi(argv[3]);
  std::string count;
  while (std::getline(std::cin, count)) {
    std::string text(std::stoul(count), '\0');
    std::cin.read(text.data(), static_cast<std::streamsize>(text.size()));
    const int places = length > 0 ? length : static_cast<int>(tokenizer->places(text));
    for (const int32_t id : tokenizer->encode(text, places)) std::printf("%d ", id);
    std::printf("\n");
  }
  return 0;
} catch (const fluxlora::Error& error) {
  std::fprintf(stderr, "%s\n", error.two_lines().c_str());
  return static_cast<int>(error.kind());
}
