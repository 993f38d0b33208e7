// SPDX-License-Identifier: Apache-2.0
#include "caption/captioner.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "caption/fetch.h"
#include "caption/florence2.h"
#include "caption/wd14_tagger.h"

namespace fluxlora::caption {

namespace {

/// A folder, or the name of a model that was fetched.
std::filesystem::path folder_of(const std::filesystem::path& model) {
  if (folder_exists(model)) return model;
  for (const FetchModel& known : fetch_models()) {
    if (known.name != model) continue;
    if (folder_exists(fetched_folder(known))) return fetched_folder(known);
    throw bad_input(known.name, "has not been fetched yet", "fluxlora fetch " + known.name);
  }
  throw bad_input(model.string(), "is no folder", "give the folder with the model's ONNX files");
}

}  // namespace

std::unique_ptr<Captioner> open_captioner(const Options& options) {
  if (options.kind == "none") return nullptr;
  if (options.kind != "wd14" && options.kind != "florence2")
    throw bad_input("--caption " + options.kind, "is not known", "give wd14, florence2 or none");
  if (options.model.empty())
    throw bad_input("--caption " + options.kind, "needs the folder of its model",
                    "give it by --caption-model FOLDER");
  const std::filesystem::path folder = folder_of(options.model);
  if (options.kind == "wd14") return open_wd14_tagger(folder, options.tagger);
  return open_florence2(folder, options.florence);
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
