// SPDX-License-Identifier: Apache-2.0
// Picture: 8-bit sRGB pixels, and how every picture file becomes one.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace fluxlora {

/// Upright sRGB pixels, rows from top to bottom, 3 bytes (red, green, blue) a pixel.
struct Picture {
  int width = 0, height = 0;  ///< pixels
  std::vector<uint8_t> rgb;   ///< (height, width, 3)
};

struct ReadOptions {
  std::array<uint8_t, 3> background{255, 255,
                                    255};  ///< what shows through transparent pixels, sRGB
  int64_t max_pixels = 200'000'000;        ///< more are refused from the header, before decoding
  /// Receives one line for each thing that a person should know: more than one frame, a broken
  /// colour profile. May be null.
  std::vector<std::string>* warnings = nullptr;
};

/// What the header of a picture says. Sizes are those of the upright picture.
struct PictureInfo {
  int width = 0, height = 0;
  int frames = 1;
};

/// Reads a JPEG, PNG, WebP, GIF, TIFF, AVIF, HEIC, JPEG XL or JPEG 2000 file (as far as the
/// installed libvips can); the content decides, not the ending. The EXIF orientation is applied,
/// the embedded ICC profile converted to sRGB (perceptual intent, black point compensated; grey,
/// CMYK, 16 bit and palettes included; without a profile RGB and grey are taken for sRGB),
/// transparency laid over `background`. Of several frames the first is read, with a warning. Errors
/// (bad_input; environment for a file that may not be read) name the file: missing, a folder,
/// empty, not a picture, damaged or truncated, too many pixels. Safe to call from several threads.
Picture read_picture(const std::filesystem::path& path, const ReadOptions& options = {});

/// The header alone, with the same Errors as far as the header shows them.
PictureInfo read_picture_info(const std::filesystem::path& path, const ReadOptions& options = {});

/// The bytes of a PNG file: equal pixels give equal bytes (no time, no profile; sRGB by
/// convention).
std::vector<uint8_t> encode_png(const Picture& picture);

/// Writes a PNG file whole or not at all. Throws Error (environment) when it cannot be written.
void write_png(const std::filesystem::path& path, const Picture& picture);

}  // namespace fluxlora
