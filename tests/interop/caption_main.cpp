// SPDX-License-Identifier: Apache-2.0
// caption_dump OPTIONS PICTURE...: a caption a line, for test_captions.py; with "kind" = "features"
// a vector a line, for test_picture_features.py. OPTIONS is a JSON object
// with "kind", "model" and what of caption::Options is to differ. Tokens come as "tokens ..." lines
// on stderr.
#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "caption/captioner.h"
#include "caption/picture_features.h"

namespace {

void print_features(const std::string& model, char** pictures, int count) {
  fluxlora::caption::PictureFeatures eyes(model);
  for (int i = 0; i < count; ++i) {
    for (const float value : eyes.of(fluxlora::read_picture(pictures[i])))
      std::printf("%.9g ", static_cast<double>(value));
    std::printf("\n");
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) return 2;
  const auto json = nlohmann::json::parse(argv[1]);
  fluxlora::caption::Options options;
  options.kind = json.at("kind").get<std::string>();
  options.model = json.at("model").get<std::string>();
  if (options.kind == "features") {
    print_features(options.model.string(), argv + 2, argc - 2);
    return 0;
  }
  auto& tagger = options.tagger;
  tagger.general_threshold = json.value("general", tagger.general_threshold);
  tagger.character_threshold = json.value("character", tagger.character_threshold);
  tagger.blacklist = json.value("blacklist", tagger.blacklist);
  auto& florence = options.florence;
  florence.detail = json.value("detail", florence.detail);
  florence.beams = json.value("beams", florence.beams);
  florence.max_tokens = json.value("max_tokens", florence.max_tokens);
  fluxlora::set_log_level(fluxlora::LogLevel::debug);
  const auto captioner = fluxlora::caption::open_captioner(options);
  for (int i = 2; i < argc; ++i)
    std::printf("%s\n", captioner->describe(fluxlora::read_picture(argv[i])).c_str());
  return 0;
} catch (const fluxlora::Error& error) {
  std::fputs(error.two_lines().c_str(), stderr);
  return static_cast<int>(error.kind());
}
