// SPDX-License-Identifier: Apache-2.0
// Captions by a model that the user brings as ONNX files: tags from a WD14-style tagger, sentences
// from Florence-2.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/picture.h"

namespace fluxlora::caption {

/// Which tags a tagger's caption has.
struct TaggerOptions {
  double general_threshold = 0.35;     ///< 0 to 1; tags with a greater probability are taken
  double character_threshold = 0.85;   ///< the same for names of characters
  std::vector<std::string> blacklist;  ///< never taken, with spaces or underscores, in any case
};

/// How Florence-2 speaks.
struct FlorenceOptions {
  std::string detail = "detailed";  ///< "short", "detailed" or "long"
  int64_t beams = 0;                ///< of the search, 1 is greedy; 0: as the model's files say
  int64_t max_tokens = 256;         ///< a caption is cut there
};

struct Options {
  std::string kind = "none";    ///< "none", "wd14" or "florence2"
  std::filesystem::path model;  ///< folder of its files, or the name that `fluxlora fetch` knows
  TaggerOptions tagger;
  FlorenceOptions florence;
};

/// A model that looks at pictures.
class Captioner {
 public:
  Captioner() = default;
  virtual ~Captioner() = default;
  Captioner(const Captioner&) = delete;
  Captioner& operator=(const Captioner&) = delete;

  /// One line of text; without the trigger word. Empty when the model has nothing to say.
  virtual std::string describe(const Picture& picture) = 0;
};

/// Opens the model; null for "none". Throws Error: bad_input for options out of range, a missing
/// file or a model of another shape, environment where no runtime for ONNX files is installed.
std::unique_ptr<Captioner> open_captioner(const Options& options);

/// A picture of a dataset and its caption.
struct CaptionedPicture {
  std::filesystem::path picture;
  std::string caption;    ///< empty: none yet
  bool by_model = false;  ///< set by caption_pictures() where it wrote the caption
};

/// Describes each picture without a caption, or all of them with `overwrite`, showing progress. No
/// file is written, and a model that has nothing to do is not opened. Leaves early, the rest as it
/// was, when `stop` says so. Errors of open_captioner() and read_picture().
void caption_pictures(const Options& options, std::vector<CaptionedPicture>& pictures,
                      bool overwrite, const std::function<bool()>& stop = {});

}  // namespace fluxlora::caption
