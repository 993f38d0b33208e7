// SPDX-License-Identifier: Apache-2.0
// A small run on the built-in model: a few pictures that the test paints, a few steps.
#pragma once

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "data/picture.h"
#include "train/fill_in.h"
#include "train/run_folder.h"
#include "train/trainer.h"
#include "unit/temporary_folder.h"

namespace fluxlora::train {

/// A picture whose colours are a function of `index`.
inline Picture painted(int index, int width = 48, int height = 40) {
  Picture picture{width, height, {}};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c)
        picture.rgb.push_back(
            static_cast<uint8_t>((x * (index + 1) + y * (c + 2) * 3 + 40 * c) & 255));
  return picture;
}

/// Writes pictures first .. first + count - 1 with captions.
inline void paint_dataset(const std::filesystem::path& folder, int count, int first = 0) {
  std::filesystem::create_directories(folder);
  for (int i = first; i < first + count; ++i) {
    const std::string stem = fmt::format("picture_{:02}", i);
    write_png(folder / (stem + ".png"), painted(i));
    write_file_atomically(folder / (stem + ".txt"), fmt::format("a shape number {}", i));
  }
}

/// Options for a run of seconds: 64x64 pixels, 16 text tokens, rank 2, no samples.
inline RunOptions small_options(const std::filesystem::path& root, const std::string& run) {
  RunOptions o;
  o.model.path = "tiny";
  o.model.text_tokens = 16;
  o.subject.name = "small";
  o.subject.trigger = "zorb";
  o.dataset.folders.push_back({});
  o.dataset.folders.back().path = root / "pictures";
  o.dataset.resolution = 64;
  o.dataset.cache = root / "cache";
  o.lora.rank = 2;
  o.lora.alpha = 3;
  o.train.steps = 6;
  o.train.batch_size = 2;
  o.train.seed = 7;
  o.train.schedule.learning_rate = 3e-3;
  o.validate.every = 0;
  o.sample.every = 0;
  o.sample.steps = 2;
  o.output.path = root / run;
  o.output.checkpoint_every = 2;
  return o;
}

/// Hears everything.
struct Ears : monitor::Sink {
  std::vector<monitor::StepEvent> steps;
  std::vector<monitor::ValidationEvent> validations;
  std::vector<monitor::SamplesEvent> samples;
  std::vector<std::string> notes;
  std::string end;
  size_t stop_after = 0;  ///< ends the run after so many steps of its own; 0: never

  bool stop() const { return stop_after && steps.size() >= stop_after; }
  void on_step(const monitor::StepEvent& e) override { steps.push_back(e); }
  void on_validation(const monitor::ValidationEvent& e) override { validations.push_back(e); }
  void on_samples(const monitor::SamplesEvent& e) override { samples.push_back(e); }
  void on_note(const std::string& line) override { notes.push_back(line); }
  void on_end(const std::string& reason) override { end = reason; }
};

inline Outcome train_run(RunOptions options, Ears& ears, bool resume = false) {
  fill_in(options, open_model(options.model));
  const auto device = open_device("cpu");
  Texts texts{"# a test\n", [](const std::string& model, const std::string& dataset) {
                return model + " " + dataset;
              }};
  return Trainer(*device, options, texts, {{&ears}, [&] { return ears.stop(); }}).run(resume);
}

inline std::string bytes_of(const std::filesystem::path& file) {
  return read_text(file, Encoding::any);
}

/// metrics.jsonl with every "seconds" value removed.
inline std::string metrics_without_seconds(const std::filesystem::path& file) {
  std::string text = bytes_of(file), result;
  for (size_t at = 0;;) {
    const size_t found = text.find("\"seconds\":", at);
    result += text.substr(at, found == std::string::npos ? found : found - at);
    if (found == std::string::npos) return result;
    at = text.find_first_of(",}", found);
  }
}

}  // namespace fluxlora::train
