// SPDX-License-Identifier: Apache-2.0
#include "data/picture.h"

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>
#include <vips/vips8>

#include "base/error.h"
#include "base/file.h"
#include "data/open_picture.h"
#include "data/vips_library.h"

namespace fluxlora {

namespace {

namespace fs = std::filesystem;
using vips::VError;
using vips::VImage;

constexpr const char* kNoProfile = ": its colour profile cannot be used and is left out";
constexpr const char* kUseAnother = "save the picture again as PNG or JPEG, or remove it";

void warn(const ReadOptions& options, std::string line) {
  if (options.warnings) options.warnings->push_back(std::move(line));
}

/// Opening a pipe would wait for ever, so the kind of the file comes first.
void check_file(const fs::path& path) {
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  if (status.type() == fs::file_type::not_found) {
    throw bad_input(path.string(), "does not exist", "check the name");
  }
  if (code == std::errc::too_many_symbolic_link_levels) {
    throw bad_input(path.string(), "is a link that leads in a circle", "remove it");
  }
  if (code || access(path.c_str(), R_OK) != 0) {
    throw environment_error(path.string(), "may not be read",
                            "give yourself the right to read it (chmod u+r)");
  }
  if (status.type() == fs::file_type::directory) {
    throw bad_input(path.string(), "is a folder, not a picture",
                    "rename the folder or move it away");
  }
  if (status.type() != fs::file_type::regular) {
    throw bad_input(path.string(), "is not an ordinary file", "remove it from the folder");
  }
  if (fs::file_size(path, code) == 0) {
    throw bad_input(path.string(), "is empty (0 bytes)", "copy the picture again, or remove it");
  }
}

/// libvips reads much else (tables, PDF, SVG ...) that is no photograph or not safe.
bool is_picture_loader(std::string_view loader) {
  constexpr std::string_view kPrefix = "VipsForeignLoad";
  if (!loader.starts_with(kPrefix)) return false;
  loader.remove_prefix(kPrefix.size());
  for (const char* name : {"Jpeg", "Png", "Webp", "Heif", "Tiff", "Nsgif", "Gif", "Jxl", "Jp2k"}) {
    if (loader.starts_with(name)) return true;
  }
  return false;
}

}  // namespace

Error unreadable(const fs::path& path, bool heif, const char* what) {
  vips_error_clear();
  if (!heif) return bad_input(path.string(), what, kUseAnother);
  return bad_input(path.string(), "is damaged, or libheif has no decoder for it",
                   "save the picture again as PNG or JPEG, or install libheif-plugin-libde265 and "
                   "libheif-plugin-dav1d");
}

Opened open_picture(const fs::path& path, const ReadOptions& options) {
  check_file(path);
  start_vips();
  take_refused_profile();
  bool heif = false;
  try {
    // By source, not by name: then the content decides, and "x[1].png" is a name, not options.
    const vips::VSource source = vips::VSource::new_from_file(path.c_str());
    const char* loader = vips_foreign_find_load_source(source.get_source());
    if (loader == nullptr || !is_picture_loader(loader)) {
      vips_error_clear();
      throw bad_input(path.string(), "is not a picture that fluxlora can read",
                      "use JPEG, PNG, WebP, TIFF, AVIF or HEIC, or remove the file");
    }
    heif = std::string_view(loader).find("Heif") != std::string_view::npos;
    VImage image = VImage::new_from_source(source, "",
                                           VImage::option()
                                               ->set("access", VIPS_ACCESS_SEQUENTIAL)
                                               ->set("fail_on", VIPS_FAIL_ON_ERROR));
    const int64_t pixels = int64_t{image.width()} * image.height();
    if (pixels > options.max_pixels) {
      throw bad_input(path.string(),
                      fmt::format("has {}x{} pixels, more than the limit of {} megapixels",
                                  image.width(), image.height(), options.max_pixels / 1'000'000),
                      "make the picture smaller, or remove it");
    }
    const int orientation = vips_image_get_orientation(image.get_image());
    return {std::move(image), heif, take_refused_profile(), orientation};
  } catch (const VError&) {
    throw unreadable(path, heif, "has a damaged header or is of a rare kind");
  }
}

namespace {

int frame_count(const VImage& image) {
  return vips_image_get_n_pages(image.get_image());
}

/// Whether the picture's profile describes colours of its kind (libvips would drop others in
/// silence).
bool profile_fits(const VImage& image) {
  size_t bytes = 0;
  const void* profile = image.get_blob(VIPS_META_ICC_NAME, &bytes);
  return vips_icc_is_compatible_profile(image.get_image(), profile, bytes);
}

/// By the embedded profile; nothing when lcms cannot use it. The black of inks becomes black, which
/// lcms does by itself only when both profiles are of version 4.
std::optional<VImage> by_profile(const VImage& image) {
  if (!profile_fits(image)) return std::nullopt;
  try {
    return image.icc_transform("srgb", VImage::option()
                                           ->set("embedded", true)
                                           ->set("intent", VIPS_INTENT_PERCEPTUAL)
                                           ->set("black_point_compensation", true)
                                           ->set("depth", 8));
  } catch (const VError&) {
    return std::nullopt;
  }
}

/// To sRGB of 8 bits; alpha is not among the bands.
VImage colours_to_srgb(const VImage& image, const fs::path& path, const ReadOptions& options) {
  if (image.get_typeof(VIPS_META_ICC_NAME) != 0) {
    if (const auto converted = by_profile(image)) return *converted;
    vips_error_clear();
    warn(options, path.string() + kNoProfile);
  }
  return image.colourspace(VIPS_INTERPRETATION_sRGB).cast(VIPS_FORMAT_UCHAR);
}

}  // namespace

VImage alpha_band(const VImage& image) {
  const VImage alpha = image[image.bands() - 1];
  switch (image.interpretation()) {
    case VIPS_INTERPRETATION_RGB16:
    case VIPS_INTERPRETATION_GREY16:
      return (alpha / 257).rint().cast(VIPS_FORMAT_UCHAR);
    case VIPS_INTERPRETATION_scRGB:
      return (alpha * 255).rint().cast(VIPS_FORMAT_UCHAR);
    default:
      return alpha.cast(VIPS_FORMAT_UCHAR);
  }
}

namespace {

VImage to_srgb(const VImage& image, const fs::path& path, const ReadOptions& options) {
  if (!image.has_alpha()) return colours_to_srgb(image, path, options);
  const VImage colours = image.extract_band(0, VImage::option()->set("n", image.bands() - 1));
  const VImage srgb = colours_to_srgb(colours, path, options);
  const auto& [red, green, blue] = options.background;
  const std::vector<double> background{double(red), double(green), double(blue)};
  // In float, since libvips rounds down in 8 bits.
  return srgb.bandjoin(alpha_band(image))
      .cast(VIPS_FORMAT_FLOAT)
      .flatten(VImage::option()->set("background", background)->set("max_alpha", 255.0))
      .rint()
      .cast(VIPS_FORMAT_UCHAR);
}

}  // namespace

Picture read_picture(const fs::path& path, const ReadOptions& options) {
  Opened opened = open_picture(path, options);
  const int frames = frame_count(opened.image);
  if (frames > 1) {
    warn(options, fmt::format("{}: has {} frames, the first is used", path.string(), frames));
  }
  if (opened.refused_profile) warn(options, path.string() + kNoProfile);
  try {
    VImage image = opened.image;
    // Files are decoded from top to bottom; turning needs the pixels in any order.
    if (opened.orientation > 1) image = image.copy_memory().autorot();
    image = to_srgb(image, path, options);
    if (image.bands() != 3) {
      throw bad_input(path.string(), fmt::format("has {} colour channels", image.bands()),
                      "save it as an RGB picture");
    }
    return from_vips(image);
  } catch (const VError&) {
    throw unreadable(path, opened.heif, "is damaged or cut off");
  }
}

PictureInfo read_picture_info(const fs::path& path, const ReadOptions& options) {
  const Opened opened = open_picture(path, options);
  PictureInfo info{opened.image.width(), opened.image.height(), frame_count(opened.image)};
  if (opened.orientation >= 5) std::swap(info.width, info.height);
  return info;
}

std::vector<uint8_t> encode_png(const Picture& picture) {
  const VImage image = as_vips(picture);
  void* data = nullptr;
  size_t bytes = 0;
  image.write_to_buffer(".png", &data, &bytes, VImage::option()->set("compression", 3));
  const std::unique_ptr<void, decltype(&g_free)> keep(data, g_free);
  const auto* first = static_cast<const uint8_t*>(data);
  return {first, first + bytes};
}

void write_png(const fs::path& path, const Picture& picture) {
  const std::vector<uint8_t> bytes = encode_png(picture);
  write_file_atomically(path, std::as_bytes(std::span(bytes)));
}

}  // namespace fluxlora
