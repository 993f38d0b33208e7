// SPDX-License-Identifier: Apache-2.0
// fluxlora evaluate: the verdict on a run.
#include <cstdio>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "config/config.h"
#include "train/evaluation.h"
#include "train/fill_in.h"
#include "train/run_folder.h"

namespace fluxlora::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct EvaluateArgs {
  std::string run, features;
  bool json = false;
  DeviceArgs device;
};

Json or_null(const std::optional<double>& number) {
  return number ? Json(*number) : Json();
}

Json to_json(const eval::Measures& m) {
  const eval::Verdict verdict = eval::judge(m);
  return {{"step", m.step},
          {"verdict", verdict.name},
          {"sentence", verdict.sentence},
          {"advice", verdict.advice},
          {"loss", m.loss},
          {"gain", m.gain},
          {"trained_gain", m.trained_gain},
          {"gap", m.gap()},
          {"falling", m.falling},
          {"trigger_drift", m.trigger_drift},
          {"near_drift", m.near_drift},
          {"neutral_drift", m.neutral_drift},
          {"bleed", m.bleed()},
          {"near_bleed", m.near_bleed()},
          {"likeness", m.likeness},
          {"similarity", or_null(m.similarity)},
          {"following", m.following},
          {"spill", m.spill},
          {"distortion", m.distortion}};
}

Json to_json(const train::Evaluation& evaluation) {
  Json checkpoints = Json::array();
  for (const eval::Measures& m : evaluation.checkpoints) checkpoints.push_back(to_json(m));
  const eval::Measures& last = evaluation.checkpoints.back();
  return {{"verdict", eval::judge(last).name},
          {"best_step", evaluation.checkpoints[evaluation.best].step},
          {"base_loss", evaluation.base_loss},
          {"base_similarity", or_null(evaluation.base_similarity)},
          {"prompts", evaluation.prompts},
          {"grid", evaluation.grid.filename().string()},
          {"checkpoints", checkpoints}};
}

/// The column of --features; nothing without.
std::string similar(const std::optional<double>& similarity) {
  return similarity ? fmt::format(" {:>7.3f}", *similarity) : "";
}

/// One row a checkpoint; docs/eval.md says what the columns mean.
std::string table(const train::Evaluation& evaluation) {
  std::string text =
      fmt::format("{:>8} {:>8} {:>6} {:>6} {:>6} {:>6} {:>9} {:>9}{} {:>6} {:>10}  {}\n", "step",
                  "loss", "gain", "gap", "bleed", "near", "following", "likeness",
                  evaluation.base_similarity ? " similar" : "", "spill", "distortion", "verdict");
  for (size_t i = 0; i < evaluation.checkpoints.size(); ++i) {
    const eval::Measures& m = evaluation.checkpoints[i];
    text += fmt::format(
        "{:>8} {:>8.4f} {:>6.2f} {:>6.2f} {:>6.2f} {:>6.2f} {:>9.2f} {:>9.2f}{} {:>6.3f} "
        "{:>10.3f}  {}{}\n",
        m.step, m.loss, m.gain, m.gap(), m.bleed(), m.near_bleed(), m.following, m.likeness,
        similar(m.similarity), m.spill, m.distortion, eval::judge(m).name,
        i == evaluation.best ? ", the best" : "");
  }
  return text;
}

std::string words(const train::Evaluation& evaluation, const std::string& features) {
  const eval::Measures& last = evaluation.checkpoints.back();
  const eval::Measures& best = evaluation.checkpoints[evaluation.best];
  const eval::Verdict verdict = eval::judge(last);
  std::string text =
      fmt::format("\nThe run ({} steps): {}; {}.\n", last.step, verdict.name, verdict.sentence);
  for (const std::string& line : verdict.advice) text += "  - " + line + "\n";
  if (best.step != last.step) {
    const eval::Verdict of_best = eval::judge(best);
    text += fmt::format("Step {} is the one to use: {}; {}.\n", best.step, of_best.name,
                        of_best.sentence);
  }
  if (last.similarity)
    text +=
        fmt::format("Samples and training pictures, as {} sees them: {:.3f}, the base's {:.3f}.\n",
                    fs::path(features).filename().string(), *last.similarity,
                    evaluation.base_similarity.value_or(0));
  return text + fmt::format("Pictures: {}\n", evaluation.grid.string());
}

int run_evaluate(const EvaluateArgs& args) {
  const fs::path config = fs::path(args.run) / "config.toml";
  if (!file_exists(config))
    throw bad_input(args.run, "is not the folder of a run",
                    "give the folder that `fluxlora train` made, such as runs/my_mascot");
  train::RunOptions options = config::load_config(config);
  options.output.path = args.run;
  train::fill_in(options, open_model(options.model));
  args.device.apply_threads();
  const std::unique_ptr<Device> device = open_device(args.device.device);
  const train::Evaluation evaluation =
      train::evaluate_run(*device, options, show_progress, args.features);
  show_progress("");
  const std::string json = to_json(evaluation).dump(2) + "\n";
  write_file_atomically(fs::path(args.run) / "evaluation.json", json);
  fmt::print("{}", args.json ? json : table(evaluation) + words(evaluation, args.features));
  return 0;
}

}  // namespace

void add_evaluate(CLI::App& program, int& status) {
  const auto args = std::make_shared<EvaluateArgs>();
  CLI::App* command =
      program.add_subcommand("evaluate", "Judge a run: what was learnt, overfit, bleed, advice");
  command->add_option("run", args->run, "The run's folder")->required()->type_name("RUN");
  command
      ->add_option("--features", args->features,
                   "A DINOv2 or CLIP vision model, which compares samples and training pictures")
      ->type_name("FILE.onnx");
  command->add_flag("--json", args->json, "Print JSON instead of a table");
  add_device_options(*command, args->device);
  set_example(*command, "fluxlora evaluate runs/my_mascot");
  command->callback([args, &status] { status = run_evaluate(*args); });
}

}  // namespace fluxlora::cli
