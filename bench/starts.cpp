// SPDX-License-Identifier: Apache-2.0
// How soon LoRA-GA reaches the validation loss at which plain LoRA ends: three subjects, several
// seeds, each start at the best learning rate of a sweep.
// Run: bench_starts [PICTURES] [steps] [seeds] [side] [ga_gamma] [plain rate] [lora_ga rate]; a
// rate of 0 is swept for.
//
// Subject 1 are the first nine pictures of assets/sample-dataset, 2 and 3 the same with colours
// exchanged, 3 upside down too; the other three pictures are held out, with the same noise and
// times at every look.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>

#include <fmt/format.h>

#include "base/file.h"
#include "data/dataset.h"
#include "data/picture.h"
#include "train/fill_in.h"
#include "train/groups.h"
#include "train/start.h"
#include "train/step.h"

namespace fluxlora::train {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kEvery = 5;        // steps between looks at the held-out pictures
constexpr size_t kHeldOut = 3;       // of twelve
constexpr int64_t kLookBatches = 4;  // each has every held-out picture once

const std::vector<double> kRates{5e-4, 1e-3, 2e-3, 4e-3, 8e-3};

/// The pictures with their channels exchanged, as PNG files with captions.
void recolour(const fs::path& from, const fs::path& to, int subject) {
  constexpr size_t kChannels[3][3] = {{0, 1, 2}, {2, 0, 1}, {1, 2, 0}};
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(from))
    if (entry.is_regular_file() && entry.path().extension() != ".txt") files.push_back(entry);
  std::sort(files.begin(), files.end());
  for (size_t n = 0; n < files.size(); ++n) {
    const fs::path folder = to / (n + kHeldOut < files.size() ? "train" : "held_out");
    fs::create_directories(folder);
    const Picture source = read_picture(files[n]);
    Picture picture = source;
    const auto w = static_cast<size_t>(source.width), h = static_cast<size_t>(source.height);
    for (size_t y = 0; y < h; ++y)
      for (size_t x = 0; x < w; ++x)
        for (size_t c = 0; c < 3; ++c)
          picture.rgb[(y * w + x) * 3 + c] =
              source.rgb[((subject == 2 ? h - 1 - y : y) * w + x) * 3 + kChannels[subject][c]];
    write_png(folder / (files[n].stem().string() + ".png"), picture);
    const std::string caption = files[n].stem().string() + ".txt";
    fs::copy_file(from / caption, folder / caption);
  }
}

struct Subject {
  Dataset train, held_out;
  Encoded train_states, held_out_states;
};

struct Series {
  std::unique_ptr<Device> device = open_device("cpu");
  RunOptions options;
  ModelFiles files;
  std::unique_ptr<flux::Transformer> model;
  std::vector<Subject> subjects;

  Subject read(const fs::path& folder) {
    Subject s;
    const EncodeHooks hooks{[](const std::string&) {}, [](const std::string&) {},
                            [] { return false; }};
    for (const bool held_out : {false, true}) {
      RunOptions o = options;
      o.dataset.folders.back().path = folder / (held_out ? "held_out" : "train");
      (held_out ? s.held_out : s.train) = scan(o.dataset, o.subject.trigger);
      (held_out ? s.held_out_states : s.train_states) =
          encode(*device, files, held_out ? s.held_out : s.train, o, hooks);
    }
    return s;
  }

  /// The validation losses after 0, kEvery, 2 kEvery ... steps.
  std::vector<double> run(Subject& subject, const std::string& init, double rate, int64_t seed) {
    RunOptions o = options;
    o.lora.init = init;
    o.train.seed = seed;
    o.train.schedule.learning_rate = rate;
    const auto specs = lora::select_targets(model->config(), o.lora);
    const Pictures pictures{subject.train.examples, subject.train_states};
    const auto state_seed = static_cast<uint64_t>(seed);
    std::optional<exporting::LoraFile> start;
    if (init == "lora_ga") start = gradient_start(*model, specs, pictures, o);
    lora::AdapterSet adapters(*device, model->weights(), specs, DType::f32, /*trains=*/true);
    adapters.initialise(state_seed, "kaiming");
    if (start) {
      exporting::upload(adapters, 0, *start);
      adapters.subtract_start();
    }
    const auto optimizer = optim::make_optimizer(*device, o.train.optimizer,
                                                 parameter_parts(adapters, o.train), DType::f32);
    State state{*device, model->config(), adapters, *optimizer, 0};
    Stepper stepper(*model, subject.train.examples, subject.train_states, o);
    RunOptions look = o;
    look.train.seed = 1000;
    look.train.batch_size = static_cast<int64_t>(kHeldOut);
    look.train.accumulation = kLookBatches;
    Stepper watcher(*model, subject.held_out.examples, subject.held_out_states, look);
    std::vector<double> curve{watcher.gradients(adapters, 0).loss};
    while (state.step < o.train.steps) {
      stepper.run(state);
      if (state.step % kEvery == 0) curve.push_back(watcher.gradients(adapters, 0).loss);
    }
    return curve;
  }

  double best_rate(const std::string& init) {
    double best = 0, least = 1e9;
    for (const double rate : kRates) {
      double sum = 0;
      for (Subject& s : subjects) sum += run(s, init, rate, 100).back();
      const double mean = sum / static_cast<double>(subjects.size());
      fmt::print("sweep {:8} rate {:.1e}: loss at the end {:.5f}\n", init, rate, mean);
      if (mean < least) least = mean, best = rate;
    }
    return best;
  }
};

/// Steps until the curve is at most `loss`; -1: never.
int64_t steps_to(const std::vector<double>& curve, double loss) {
  for (size_t i = 0; i < curve.size(); ++i)
    if (curve[i] <= loss) return static_cast<int64_t>(i) * kEvery;
  return -1;
}

/// `gain`: the mean of the losses at the end over plain LoRA's.
void report(std::vector<double> ratios, int64_t runs, double gain) {
  std::sort(ratios.begin(), ratios.end());
  double sum = 0;
  for (const double r : ratios) sum += r;
  if (ratios.empty()) return fmt::print("lora_ga: plain LoRA's last loss is never reached\n");
  fmt::print(
      "lora_ga: reached in {} of {} runs; steps over plain LoRA's: median {:.2f}, mean {:.2f}, "
      "from {:.2f} to {:.2f}; loss at the end over plain LoRA's: {:.3f}\n",
      ratios.size(), runs, ratios[ratios.size() / 2], sum / static_cast<double>(ratios.size()),
      ratios.front(), ratios.back(), gain);
}

void run_series(Series& series, int64_t seeds, std::map<std::string, double> rates) {
  for (const char* init : {"kaiming", "lora_ga"})
    if (rates[init] == 0) rates[init] = series.best_rate(init);
  std::vector<double> ratios;
  double gains = 0;
  int64_t runs = 0;
  for (size_t s = 0; s < series.subjects.size(); ++s)
    for (int64_t seed = 0; seed < seeds; ++seed, ++runs) {
      const auto plain = series.run(series.subjects[s], "kaiming", rates["kaiming"], seed);
      const auto curve = series.run(series.subjects[s], "lora_ga", rates["lora_ga"], seed);
      const int64_t steps = steps_to(curve, plain.back());
      fmt::print(
          "subject {} seed {}: base {:.5f}, plain {:.5f}; lora_ga {:.5f}, there after {} steps\n",
          s + 1, seed, plain.front(), plain.back(), curve.back(), steps);
      std::fflush(stdout);
      if (steps >= 0)
        ratios.push_back(static_cast<double>(steps) /
                         static_cast<double>(series.options.train.steps));
      gains += curve.back() / plain.back();
    }
  fmt::print("rate {:.1e} against {:.1e}. ", rates["lora_ga"], rates["kaiming"]);
  report(ratios, runs, gains / static_cast<double>(runs));
}

}  // namespace
}  // namespace fluxlora::train

int main(int argc, char** argv) {
  using namespace fluxlora;
  using namespace fluxlora::train;
  const auto number = [&](int i, double otherwise) {
    return argc > i ? std::atof(argv[i]) : otherwise;
  };
  const fs::path pictures = argc > 1 ? argv[1] : "assets/sample-dataset";
  const fs::path scratch = fs::temp_directory_path() / "fluxlora-bench-starts";
  fs::remove_all(scratch);
  Series series;
  RunOptions& o = series.options;
  o.model.path = "tiny";
  o.model.text_tokens = 24;
  o.subject.trigger = "zorbot";
  o.dataset.folders.push_back({});
  o.dataset.resolution = static_cast<int>(number(4, 64));
  o.dataset.cache = scratch / "cache";
  o.lora.rank = 8;
  o.lora.alpha = 8;
  o.lora.ga_gamma = number(5, 16);
  o.train.steps = static_cast<int64_t>(number(2, 150));
  o.train.batch_size = 3;
  o.train.caption_dropout = 0;
  o.sample.every = 0;
  series.files = open_model(o.model);
  fill_in(o, series.files);
  series.model =
      std::make_unique<flux::Transformer>(*series.device, series.files.transformer, DType::f32);
  for (int subject = 0; subject < 3; ++subject) {
    const fs::path folder = scratch / std::to_string(subject + 1);
    recolour(pictures, folder, subject);
    series.subjects.push_back(series.read(folder));
  }
  run_series(series, static_cast<int64_t>(number(3, 5)),
             {{"kaiming", number(6, 0)}, {"lora_ga", number(7, 0)}});
  fs::remove_all(scratch);
}
