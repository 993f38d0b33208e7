// SPDX-License-Identifier: Apache-2.0
#include "data/formats.h"

#include <memory>

#include <dlfcn.h>
#include <vips/vips8>

#include "data/vips_library.h"

namespace fluxlora {
namespace {

bool can_load(const char* operation_name) {
  if (vips_type_find("VipsOperation", operation_name) == 0) return false;
  VipsOperation* operation = vips_operation_new(operation_name);
  if (!operation) {
    vips_error_clear();
    return false;
  }
  const bool blocked = (vips_operation_get_flags(operation) & VIPS_OPERATION_BLOCKED) != 0;
  g_object_unref(operation);
  return !blocked;
}

/// Whether libheif has a decoder for a compression (its heif_compression_format: HEVC 1, AV1 4).
/// Distributions pack the decoders apart from the library, and libvips does not tell.
bool heif_decodes(int compression) {
  const std::unique_ptr<void, int (*)(void*)> library(::dlopen("libheif.so.1", RTLD_LAZY),
                                                      [](void* l) { return l ? ::dlclose(l) : 0; });
  if (!library) return true;  // another way of linking; the loader is there, so believe it
  using Asks = int (*)(int);
  const auto have = reinterpret_cast<Asks>(::dlsym(library.get(), "heif_have_decoder_for_format"));
  return !have || have(compression) != 0;
}

}  // namespace

std::vector<PictureFormat> picture_formats() {
  constexpr int kHevc = 1, kAv1 = 4;
  start_vips();
  const bool heif = can_load("heifload");
  return {{"JPEG", can_load("jpegload")},        {"PNG", can_load("pngload")},
          {"WebP", can_load("webpload")},        {"TIFF", can_load("tiffload")},
          {"GIF", can_load("gifload")},          {"AVIF", heif && heif_decodes(kAv1)},
          {"HEIC", heif && heif_decodes(kHevc)}, {"JPEG XL", can_load("jxlload")},
          {"JPEG 2000", can_load("jp2kload")}};
}

}  // namespace fluxlora
