// SPDX-License-Identifier: Apache-2.0
#include "train/validator.h"

#include <algorithm>
#include <chrono>

#include "eval/held_out.h"

namespace fluxlora::train {
namespace {

constexpr int64_t kDriftPoints = 2;  // of each prompt: a validation must cost little

std::vector<eval::ValidationPicture> pictures(const Encoded& encoded, int64_t trained) {
  std::vector<eval::ValidationPicture> all;
  for (auto i = static_cast<size_t>(trained); i < encoded.latents.size(); ++i)
    all.push_back({{encoded.latents[i].h, encoded.latents[i].w},
                   encoded.latents[i].tokens.view,
                   encoded.prompts[i].front(),
                   encoded.latents[i].mask.view});
  return all;
}

}  // namespace

int64_t hold_out(Dataset& dataset, const RunOptions& options) {
  const auto count = static_cast<int64_t>(dataset.examples.size());
  if (options.validate.every == 0) return count;
  const std::vector<bool> held_out = eval::choose_held_out(
      dataset.examples, options.validate.held_out, static_cast<uint64_t>(options.train.seed));
  std::vector<Example> trained, held;
  for (size_t i = 0; i < held_out.size(); ++i)
    (held_out[i] ? held : trained).push_back(std::move(dataset.examples[i]));
  const auto kept = static_cast<int64_t>(trained.size());
  for (Example& example : held) trained.push_back(std::move(example));
  dataset.examples = std::move(trained);
  return kept;
}

Validator::Validator(flux::Transformer& model, lora::AdapterSet& adapters,
                     const SchedulerConfig& scheduler, const Encoded& encoded, int64_t trained,
                     const RunOptions& options)
    : options_(options.validate),
      steps_(options.train.steps),
      predictor_(model, adapters, options.model.text_tokens),
      validation_(predictor_, pictures(encoded, trained),
                  {static_cast<uint64_t>(options.train.seed), options.validate.timesteps,
                   options.train.guidance}),
      drift_(predictor_, scheduler, encoded.neutral,
             {.size = {encoded.latents[static_cast<size_t>(trained)].h,
                       encoded.latents[static_cast<size_t>(trained)].w},
              .seed = static_cast<uint64_t>(options.train.seed),
              .points = kDriftPoints,
              .guidance = options.sample.guidance}) {
  predictor_.release();
}

bool Validator::due(int64_t step) const {
  if (!history_.empty() && history_.back().step >= step) return false;
  return step % options_.every == 0 || step == steps_;
}

monitor::ValidationEvent Validator::measure(int64_t step) {
  const auto begin = std::chrono::steady_clock::now();
  std::optional<double> drift;
  if (history_.size() % 2 == 0) drift = drift_.overall();
  history_.push_back({step, validation_.loss()});
  predictor_.release();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  seconds_ += seconds.count();
  return {step, history_.back().loss, history_.front().loss, drift};
}

int64_t Validator::best_step() const {
  if (history_.empty()) return 0;  // metrics.jsonl was taken away before a resume
  return history_[eval::early_stop(history_, options_.stopping).best].step;
}

double Validator::best_loss() const {
  return history_[eval::early_stop(history_, options_.stopping).best].loss;
}

eval::StopAdvice Validator::advice() const {
  return options_.stop ? eval::early_stop(history_, options_.stopping) : eval::StopAdvice{};
}

}  // namespace fluxlora::train
