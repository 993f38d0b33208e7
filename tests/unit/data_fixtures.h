// SPDX-License-Identifier: Apache-2.0
// What the tests of src/data share: a scratch folder, made-up pictures, files, caught Errors.
#pragma once

#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <sstream>
#include <string>

#include <gtest/gtest.h>

#include "base/error.h"
#include "data/picture.h"
#include "unit/temporary_folder.h"

namespace fluxlora {

namespace fs = std::filesystem;

/// A scratch folder that lives as long as the test.
class DataTest : public testing::Test {
 protected:
  const fs::path& folder() const { return folder_.path(); }

  fs::path write(const std::string& name, const std::string& bytes) const {
    const fs::path path = folder() / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

 private:
  TemporaryFolder folder_;
};

inline std::string read_bytes(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

/// The Error that `call` throws; a failed test when it throws none.
template <typename Call>
Error error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no Error was thrown";
  return bad_input("", "", "");
}

inline Picture noise_picture(int width, int height, unsigned seed) {
  std::mt19937 random(seed);
  Picture picture{width, height, {}};
  picture.rgb.resize(static_cast<size_t>(width) * height * 3);
  for (uint8_t& value : picture.rgb) value = static_cast<uint8_t>(random());
  return picture;
}

/// Slow waves of colour: what lossy formats keep.
inline Picture smooth_picture(int width, int height) {
  Picture picture{width, height, {}};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < 3; ++c) {
        const double wave = std::sin(0.11 * x + 0.07 * y * (c + 1) + c);
        picture.rgb.push_back(static_cast<uint8_t>(std::lround(127.5 + 100 * wave)));
      }
    }
  }
  return picture;
}

/// The start of a PNG file (signature, IHDR of 8-bit RGB) without any pixel.
inline std::string png_header(uint32_t width, uint32_t height) {
  std::string chunk = "IHDR";
  for (const uint32_t side : {width, height}) {
    for (int shift = 24; shift >= 0; shift -= 8) chunk += static_cast<char>(side >> shift);
  }
  chunk += std::string("\x08\x02\x00\x00\x00", 5);
  uint32_t crc = 0xFFFFFFFF;  // ISO 3309, as the PNG specification asks
  for (const unsigned char byte : chunk) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xEDB88320u : 0);
  }
  crc ^= 0xFFFFFFFF;
  std::string bytes = std::string("\x89PNG\r\n\x1a\n", 8) + std::string("\0\0\0\x0d", 4) + chunk;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(crc >> shift);
  return bytes + std::string("\0\0\0\0IDAT", 8);
}

}  // namespace fluxlora
