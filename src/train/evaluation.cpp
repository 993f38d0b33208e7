// SPDX-License-Identifier: Apache-2.0
#include "train/evaluation.h"

#include <algorithm>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "base/error.h"
#include "caption/picture_features.h"
#include "data/caption.h"
#include "eval/drift.h"
#include "eval/likeness.h"
#include "eval/painter.h"
#include "eval/validation.h"
#include "export/lora_file.h"
#include "flow/pack.h"
#include "model/precision.h"
#include "monitor/jsonl.h"
#include "train/checkpoint.h"
#include "train/encode.h"
#include "train/validator.h"

namespace fluxlora::train {
namespace {

constexpr size_t kPrompts = 4;  // of each class

/// One model, the run's pictures, and all that is measured of each checkpoint.
class Examination {
 public:
  Examination(Device& device, const RunOptions& options, const RunPaths& paths,
              const std::function<void(const std::string&)>& progress,
              const std::filesystem::path& features);

  double base_loss() const { return base_loss_; }
  std::optional<double> base_similarity() const { return similarity(base_pictures_); }
  const std::vector<std::string>& prompts() const { return prompts_; }
  /// The checkpoint's measures; its pictures become the next row of the grid.
  eval::Measures measure(int64_t step);
  void write_grid(const std::filesystem::path& path) const;

 private:
  void load_data();
  void load_model();
  void encode_pooled_again();
  void choose_prompts();
  exporting::LoraFile read_checkpoint(int64_t step) const;
  std::vector<eval::ValidationPicture> pictures(size_t first, size_t count) const;
  std::unique_ptr<eval::Drift> drift(const std::vector<const eval::PromptStates*>& prompts);
  std::vector<HostTensor> paint();
  double spread(const std::vector<HostTensor>& latents) const;
  double nearest(const std::vector<HostTensor>& latents) const;
  void look_at_trained();
  std::optional<double> similarity(const std::vector<Picture>& painted) const;
  void add_row(const std::string& label, const std::vector<Picture>& pictures);

  Device& device_;
  const RunOptions& options_;
  const RunPaths& paths_;
  const std::function<void(const std::string&)>& progress_;
  ModelFiles files_;
  Dataset dataset_;
  size_t trained_ = 0;
  Encoded encoded_;
  eval::PromptBook near_book_;
  std::vector<std::string> prompts_;  ///< of the samples: with the trigger, then neutral
  std::vector<const eval::PromptStates*> trigger_, near_, neutral_;
  std::unique_ptr<flux::Transformer> model_;
  std::unique_ptr<ClipText> clip_;  ///< when it carries adapters
  std::unique_ptr<lora::AdapterSet> adapters_;
  std::optional<eval::Predictor> predictor_;
  std::optional<eval::Validation> held_out_, seen_;
  std::unique_ptr<eval::Drift> trigger_drift_, near_drift_, neutral_drift_;
  std::optional<eval::Painter> painter_;
  std::vector<eval::LossPoint> history_;
  double base_loss_ = 0, base_seen_ = 0, base_spread_ = 0;
  std::unique_ptr<caption::PictureFeatures> eyes_;  ///< null unless the user brought some
  std::vector<std::vector<float>> trained_features_;
  std::vector<Picture> base_pictures_, grid_;
  std::vector<std::string> labels_;
};

Examination::Examination(Device& device, const RunOptions& options, const RunPaths& paths,
                         const std::function<void(const std::string&)>& progress,
                         const std::filesystem::path& features)
    : device_(device), options_(options), paths_(paths), progress_(progress) {
  if (!features.empty()) eyes_ = std::make_unique<caption::PictureFeatures>(features);
  load_data();
  look_at_trained();
  choose_prompts();
  load_model();
  for (const auto& point : monitor::read_metrics(paths_.metrics()).validations)
    history_.push_back({point.step, point.loss});

  progress_("measuring the base model");
  adapters_->set_multiplier(0);
  base_loss_ = held_out_->loss();
  base_seen_ = seen_->loss();
  const std::vector<HostTensor> latents = paint();
  adapters_->set_multiplier(1);
  base_spread_ = spread(latents);
  base_pictures_ = eval::decode(device_, files_, latents);
  add_row("base", base_pictures_);
}

void Examination::load_data() {
  files_ = open_model(options_.model);
  dataset_ = scan(options_.dataset, options_.subject.trigger);
  trained_ = static_cast<size_t>(hold_out(dataset_, options_));
  if (trained_ == dataset_.examples.size())
    throw bad_input(paths_.root.string(), "held no picture out, so that nothing can be compared",
                    "train with validate.every above 0 and at least four pictures");
  const auto state = find_checkpoint(paths_);
  if (state && state->dataset_hash != dataset_.hash)
    throw bad_input(options_.dataset.folders.front().path.string(),
                    "the pictures or captions are not those that the run was trained on",
                    "put them back, or train again");
  RunOptions no_samples = options_;
  no_samples.sample.every = 0;
  encoded_ = encode(device_, files_, dataset_, no_samples,
                    {[](const std::string&) {}, progress_, [] { return false; }});
}

void Examination::choose_prompts() {
  std::vector<std::string> near;
  for (size_t i = trained_; i < dataset_.examples.size() && trigger_.size() < kPrompts; ++i) {
    const std::string& caption = dataset_.examples[i].captions.front();
    if (std::find(prompts_.begin(), prompts_.end(), caption) != prompts_.end()) continue;
    prompts_.push_back(caption);
    trigger_.push_back(encoded_.prompts[i].front());
    near.push_back(without_trigger(caption, options_.subject.trigger, ""));
  }
  for (size_t i = 0; i < encoded_.neutral.size() && i < kPrompts; ++i) {
    prompts_.push_back(options_.validate.prompts[i]);
    neutral_.push_back(encoded_.neutral[i]);
  }
  Cache cache(options_.dataset.cache);
  near_book_ = eval::encode_prompts(device_, files_, near,
                                    {.text_tokens = options_.model.text_tokens,
                                     .precision = options_.model.text_precision,
                                     .cache = &cache});
  for (const std::string& prompt : near) near_.push_back(&near_book_.at(prompt));
}

void Examination::load_model() {
  const std::vector<int64_t> steps = step_folders(paths_.checkpoints());
  if (steps.empty()) throw bad_input(paths_.root.string(), "holds no checkpoint", "train it first");
  const Precision precision = transformer_precision(options_.model.precision, device_.is_host());
  model_ = std::make_unique<flux::Transformer>(device_, files_.transformer, precision.act,
                                               precision.format);
  const exporting::LoraFile lora = read_checkpoint(steps.front());
  if (lora::has_clip(lora.specs))
    clip_ = std::make_unique<ClipText>(device_, files_.clip, model_->act());
  adapters_ = std::make_unique<lora::AdapterSet>(
      device_, lora::Networks{model_->weights(), clip_.get()}, lora.specs, model_->act(),
      /*trains=*/false);
  if (clip_) clip_->prepare(1, /*training=*/false);
  adapters_->set_multiplier(0);  // the drifts begin with the base's velocities
  encode_pooled_again();
  predictor_.emplace(*model_, *adapters_, options_.model.text_tokens);
  const eval::ValidationOptions validation{static_cast<uint64_t>(options_.train.seed),
                                           options_.validate.timesteps, options_.train.guidance};
  const size_t held_out = dataset_.examples.size() - trained_;
  held_out_.emplace(*predictor_, pictures(trained_, held_out), validation);
  seen_.emplace(*predictor_, pictures(0, trained_), validation);
  trigger_drift_ = drift(trigger_);
  near_drift_ = drift(near_);
  neutral_drift_ = drift(neutral_);
  const auto& size = dataset_.examples[trained_].size;
  painter_.emplace(*model_, files_, size, options_.model.text_tokens);
}

exporting::LoraFile Examination::read_checkpoint(int64_t step) const {
  return exporting::read_lora(paths_.checkpoint(step) / "lora.safetensors",
                              flux::read_config(files_.transformer), read_clip_config(files_.clip));
}

/// The prompts' vectors as CLIP's adapters make them now.
void Examination::encode_pooled_again() {
  if (!clip_) return;
  eval::encode_pooled_again(*clip_, device_, encoded_.book);
  eval::encode_pooled_again(*clip_, device_, near_book_);
}

/// Of the subject: regularisation pictures say nothing of what was learnt. At most five of those
/// that were trained.
std::vector<eval::ValidationPicture> Examination::pictures(size_t first, size_t count) const {
  constexpr size_t kMost = 5;
  std::vector<eval::ValidationPicture> all;
  for (size_t i = first; i < first + count && all.size() < kMost; ++i)
    if (!dataset_.examples[i].regularisation)
      all.push_back({{encoded_.latents[i].h, encoded_.latents[i].w},
                     encoded_.latents[i].tokens.view,
                     encoded_.prompts[i].front(),
                     encoded_.latents[i].mask.view});
  return all;
}

std::unique_ptr<eval::Drift> Examination::drift(
    const std::vector<const eval::PromptStates*>& prompts) {
  const Latents& like = encoded_.latents[trained_];
  return std::make_unique<eval::Drift>(
      *predictor_, read_scheduler_config(files_), prompts,
      eval::DriftOptions{.size = {like.h, like.w},
                         .seed = static_cast<uint64_t>(options_.train.seed),
                         .guidance = options_.sample.guidance});
}

/// The latents (1, h, w, C) of all prompts, each from the noise of its number.
std::vector<HostTensor> Examination::paint() {
  std::vector<HostTensor> all;
  for (const auto* prompts : {&trigger_, &neutral_})
    for (const eval::PromptStates* prompt : *prompts) {
      const HostTensor noise =
          eval::sample_noise(static_cast<uint64_t>(options_.sample.seed) + all.size(),
                             painter_->channels(), painter_->height(), painter_->width());
      all.push_back(
          painter_->paint(*prompt, noise.view, options_.sample.steps, options_.sample.guidance));
    }
  return all;
}

/// Mean distance of the samples with the trigger from each other.
double Examination::spread(const std::vector<HostTensor>& latents) const {
  double sum = 0;
  int pairs = 0;
  for (size_t i = 0; i < trigger_.size(); ++i)
    for (size_t j = 0; j < i; ++j, ++pairs)
      sum += eval::rms_difference(latents[i].view, latents[j].view);
  return pairs ? sum / pairs : 0;
}

/// Mean correlation of each sample with the trained picture of its size that it is most like.
double Examination::nearest(const std::vector<HostTensor>& latents) const {
  double sum = 0;
  for (size_t i = 0; i < trigger_.size(); ++i) {
    double most = 0;
    HostTensor packed(DType::f32, {1, latents[i].view.size()});
    flow::pack(packed.view.reshaped(
                   {1, painter_->height() * painter_->width() / 4, 4 * painter_->channels()}),
               latents[i].view);
    for (size_t j = 0; j < trained_; ++j)
      if (const Tensor& tokens = encoded_.latents[j].tokens.view;
          !dataset_.examples[j].regularisation && tokens.size() == packed.view.size())
        most = std::max(most, eval::correlation(packed.view, tokens));
    sum += most;
  }
  return trigger_.empty() ? 0 : sum / static_cast<double>(trigger_.size());
}

void Examination::look_at_trained() {
  for (size_t j = 0; eyes_ && j < trained_; ++j)
    if (const Example& example = dataset_.examples[j]; !example.regularisation)
      trained_features_.push_back(eyes_->of(load_pixels(example)));
}

/// Mean cosine over all pairs of a sample with the trigger and a trained picture.
std::optional<double> Examination::similarity(const std::vector<Picture>& painted) const {
  if (!eyes_) return {};
  double sum = 0;
  for (size_t i = 0; i < trigger_.size(); ++i) {
    const std::vector<float> own = eyes_->of(painted[i]);
    for (const std::vector<float>& trained : trained_features_)
      sum += caption::cosine(own, trained);
  }
  return sum / static_cast<double>(trigger_.size() * trained_features_.size());
}

eval::Measures Examination::measure(int64_t step) {
  progress_(fmt::format("measuring step {}", step));
  exporting::upload(*adapters_, 0, read_checkpoint(step));
  encode_pooled_again();
  eval::Measures m;
  m.step = step;
  m.loss = held_out_->loss();
  m.gain = 1 - m.loss / base_loss_;
  m.trained_gain = 1 - seen_->loss() / base_seen_;
  m.falling = eval::falling_share(history_, step);
  m.trigger_drift = trigger_drift_->overall();
  m.near_drift = near_drift_->overall();
  m.neutral_drift = neutral_drift_->overall();
  const std::vector<HostTensor> latents = paint();
  m.following = base_spread_ > 0 ? spread(latents) / base_spread_ : 0;
  m.likeness = nearest(latents);
  const std::vector<Picture> painted = eval::decode(device_, files_, latents);
  for (size_t i = trigger_.size(); i < painted.size(); ++i) {
    const eval::PictureChange change = eval::picture_change(base_pictures_[i], painted[i]);
    m.spill += change.spill / static_cast<double>(neutral_.size());
    m.distortion += change.distortion / static_cast<double>(neutral_.size());
  }
  m.similarity = similarity(painted);
  add_row(fmt::format("step {}", step), painted);
  return m;
}

void Examination::add_row(const std::string& label, const std::vector<Picture>& pictures) {
  grid_.insert(grid_.end(), pictures.begin(), pictures.end());
  labels_.push_back(label);
}

void Examination::write_grid(const std::filesystem::path& path) const {
  GridOptions options;
  options.columns = static_cast<int>(prompts_.size());
  options.row_labels = labels_;
  write_png(path, grid(grid_, options));
}

}  // namespace

Evaluation evaluate_run(Device& device, const RunOptions& options,
                        const std::function<void(const std::string&)>& progress,
                        const std::filesystem::path& features) {
  const RunPaths paths = run_paths(options);
  Examination examination(device, options, paths, progress, features);
  Evaluation result;
  result.base_loss = examination.base_loss();
  result.base_similarity = examination.base_similarity();
  result.prompts = examination.prompts();
  for (const int64_t step : step_folders(paths.checkpoints()))
    if (step > 0) result.checkpoints.push_back(examination.measure(step));
  for (size_t i = 1; i < result.checkpoints.size(); ++i)
    if (eval::better(result.checkpoints[i], result.checkpoints[result.best])) result.best = i;
  result.grid = paths.root / "evaluation.png";
  examination.write_grid(result.grid);
  return result;
}

}  // namespace fluxlora::train
