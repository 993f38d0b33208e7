// SPDX-License-Identifier: Apache-2.0
#include "caption/captioner.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"

namespace fluxlora::caption {

std::unique_ptr<Captioner> open_captioner(const Options& options) {
  if (options.kind == "none") return nullptr;
  throw bad_input("--caption " + options.kind, "is not known", "give none");
}

void caption_pictures(const Options& options, std::vector<CaptionedPicture>& pictures,
                      bool overwrite, const std::function<bool()>& stop) {
  const auto wanted = [&](const CaptionedPicture& p) { return overwrite || p.caption.empty(); };
  std::unique_ptr<Captioner> captioner;
  for (size_t i = 0; i < pictures.size() && !(stop && stop()); ++i) {
    if (!wanted(pictures[i])) continue;
    if (!captioner) captioner = open_captioner(options);
    if (!captioner) return;
    show_progress(fmt::format("caption {} of {}", i + 1, pictures.size()));
    pictures[i].caption = captioner->describe(read_picture(pictures[i].picture));
    pictures[i].by_model = true;
  }
  show_progress("");
}

}  // namespace fluxlora::caption
