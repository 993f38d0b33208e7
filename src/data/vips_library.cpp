// SPDX-License-Identifier: Apache-2.0
#include "data/vips_library.h"

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>

#include <vips/vips8>

#include "base/error.h"

namespace fluxlora {

namespace {

thread_local bool refused_profile = false;

/// libpng says so in words only: "iCCP: profile ...".
void swallow(const gchar*, GLogLevelFlags, const gchar* message, gpointer) {
  if (message && std::string_view(message).starts_with("iCCP")) refused_profile = true;
}

bool start() {
  if (VIPS_INIT("fluxlora")) return false;
  vips_concurrency_set(1);
  vips_cache_set_max(0);
  vips_block_untrusted_set(TRUE);
  // What matters reaches the caller as an Error or a warning of ours; these would only garble the
  // progress line.
  const auto levels =
      static_cast<GLogLevelFlags>(G_LOG_LEVEL_WARNING | G_LOG_LEVEL_MESSAGE | G_LOG_LEVEL_INFO);
  for (const char* domain : {"VIPS", "Pango", "GLib"}) {
    g_log_set_handler(domain, levels, swallow, nullptr);
  }
  return true;
}

}  // namespace

void start_vips() {
  static const bool started = start();
  if (!started) {
    throw environment_error("libvips", "cannot be started",
                            "install the package libvips42 of your distribution again");
  }
}

bool take_refused_profile() {
  return std::exchange(refused_profile, false);
}

vips::VImage as_vips(const Picture& picture) {
  start_vips();
  // libvips wants a pointer to non-const, but reads only.
  void* pixels = const_cast<uint8_t*>(picture.rgb.data());
  return vips::VImage::new_from_memory(pixels, picture.rgb.size(), picture.width, picture.height, 3,
                                       VIPS_FORMAT_UCHAR)
      .copy(vips::VImage::option()->set("interpretation", VIPS_INTERPRETATION_sRGB));
}

Picture from_vips(const vips::VImage& image) {
  CHECK(image.bands() == 3 && image.format() == VIPS_FORMAT_UCHAR, "from_vips: 3 bands of 8 bits");
  Picture picture{image.width(), image.height(), {}};
  const size_t row = static_cast<size_t>(picture.width) * 3;
  picture.rgb.reserve(row * static_cast<size_t>(picture.height));
  // Strip by strip, since libvips' own way to memory would hold all pixels a second time.
  constexpr int kStrip = 64;
  const std::unique_ptr<VipsRegion, decltype(&g_object_unref)> region(
      vips_region_new(image.get_image()), g_object_unref);
  for (int top = 0; top < picture.height; top += kStrip) {
    const VipsRect strip{0, top, picture.width, std::min(kStrip, picture.height - top)};
    if (!region || vips_region_prepare(region.get(), &strip) != 0) throw vips::VError();
    for (int y = top; y < top + strip.height; ++y) {
      const VipsPel* const first = VIPS_REGION_ADDR(region.get(), 0, y);
      picture.rgb.insert(picture.rgb.end(), first, first + row);
    }
  }
  return picture;
}

}  // namespace fluxlora
