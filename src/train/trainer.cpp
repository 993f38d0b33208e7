// SPDX-License-Identifier: Apache-2.0
#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "caption/trigger_check.h"
#include "export/lora_file.h"
#include "export/lora_modules.h"
#include "model/precision.h"
#include "monitor/jsonl.h"
#include "monitor/report.h"
#include "prepare/checks.h"
#include "tokenizer/tokenizer.h"
#include "train/averaged.h"
#include "train/checkpoint.h"
#include "train/fill_in.h"
#include "train/generate.h"
#include "train/groups.h"
#include "train/lora_metadata.h"
#include "train/memory_plan.h"
#include "train/previews.h"
#include "train/start.h"
#include "train/step.h"
#include "train/validator.h"

namespace fluxlora::train {
namespace {

exporting::FileStyle file_style(const OutputOptions& output) {
  return {output.format, output.dtype == "bf16"  ? DType::bf16
                         : output.dtype == "f16" ? DType::f16
                                                 : DType::f32};
}

bool has_dora(const std::vector<lora::AdapterSpec>& specs) {
  return std::any_of(specs.begin(), specs.end(), [](const auto& s) { return s.dora; });
}

/// "2026-03-01T12:30:00Z".
std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

double mib(int64_t bytes) {
  return static_cast<double>(bytes) / (1 << 20);
}

/// One run while it lasts: everything between the checks and the report.
class Run {
 public:
  Run(Device& device, const RunOptions& options, const Texts& texts, const Company& company,
      const RunFolder& folder)
      : device_(device),
        options_(options),
        texts_(texts),
        sinks_(company.sinks),
        stop_(company.stop),
        paths_(folder.paths()) {}

  Outcome run(bool resume);

 private:
  void look_at_model();
  void look_at_pictures();
  void find_start(bool resume);
  void open_files();
  void load_networks();
  void load_assistant();
  void encode_pooled_again();
  void find_adapters_start(const std::vector<flux::Keep>& keep);
  void check_disk() const;
  void load_validator();
  std::span<const Example> held_out() const {
    return std::span(dataset_.examples).subspan(trained_.size());
  }
  std::string reason_to_end() const;
  Outcome train();
  void step();
  void validate();
  bool best_so_far() const;
  void save();
  void paint(bool last);
  Outcome finish(const std::string& reason);
  Outcome stopped();
  Outcome end(const Outcome& outcome);
  void report(const std::string& status) const;
  Metadata metadata() const;

  template <typename Event>
  void tell(void (monitor::Sink::*hear)(const Event&), const Event& event) const {
    for (monitor::Sink* sink : sinks_) (sink->*hear)(event);
  }
  void note(const std::string& line) const { tell(&monitor::Sink::on_note, line); }

  Device& device_;
  const RunOptions& options_;
  const Texts& texts_;
  std::vector<monitor::Sink*> sinks_;
  const std::function<bool()>& stop_;
  const RunPaths& paths_;

  ModelFiles model_files_;
  Dataset dataset_;  ///< what is held out stands at the end
  std::vector<Example> trained_;
  std::vector<lora::AdapterSpec> targets_;
  CheckpointInfo start_;
  std::unique_ptr<monitor::Sink> metrics_;
  Encoded encoded_;
  std::unique_ptr<flux::Transformer> model_;
  std::unique_ptr<ClipText> clip_;  ///< when it carries adapters
  std::unique_ptr<lora::AdapterSet> adapters_, assistant_;
  std::optional<exporting::LoraFile> first_file_, assistant_file_;  ///< until on the device
  std::unique_ptr<optim::Optimizer> optimizer_;
  std::unique_ptr<Stepper> stepper_;
  std::unique_ptr<Previews> previews_;
  std::unique_ptr<Validator> validator_;
  std::unique_ptr<State> state_;
  int64_t saved_step_ = -1;
  double seconds_ = 0;  ///< of all steps of this start
  double earlier_ = 0;  ///< of the steps of earlier ones
  std::chrono::steady_clock::time_point start_of_steps_;
};

Outcome Run::run(bool resume) {
  const EncodeHooks hooks{[this](const std::string& line) { note(line); }, show_progress, stop_};
  look_at_model();
  if (!generate_pictures(device_, model_files_, options_, hooks)) return stopped();
  show_progress("");
  look_at_pictures();
  find_start(resume);
  open_files();
  for (const std::string& line : dataset_.warnings) log_warning(line);
  for (const std::string& line : dataset_.notes) note(line);
  encoded_ = encode(device_, model_files_, dataset_, options_, hooks);
  show_progress("");
  if (stop_()) return stopped();
  load_networks();
  try {
    return train();
  } catch (const Error& error) {
    // The disk may be full: then the page must not hide the reason.
    try {
      end({false, state_->step,
           fmt::format("stopped after {} steps: {}", state_->step, error.message())});
    } catch (const Error&) {
    }
    throw;
  }
}

void Run::look_at_model() {
  model_files_ = open_model(options_.model);
  const flux::Config config = flux::read_config(model_files_.transformer);
  flux::check_weights(model_files_.transformer, config);
  const ClipConfig clip = read_clip_config(model_files_.clip);
  targets_ = lora::select_targets(config, options_.lora, clip);
  if (const auto& path = options_.lora.continue_from; !path.empty()) {
    first_file_ = exporting::read_lora(path, config, clip);
    targets_ = first_file_->specs;
    if (lora::has_clip(targets_) != options_.lora.text_encoder)
      throw bad_input("lora.text_encoder",
                      options_.lora.text_encoder
                          ? "is true, but the LoRA to go on from has no adapters of CLIP"
                          : "is false, but the LoRA to go on from has adapters of CLIP",
                      options_.lora.text_encoder ? "leave it out" : "set it to true");
    lora::check_places(targets_);
  }
  exporting::check_style(targets_, config, file_style(options_.output));
  if (const auto& path = options_.model.assistant_lora; !path.empty())
    assistant_file_ = exporting::read_lora(path, config);
  if (assistant_file_ && has_dora(assistant_file_->specs))
    throw bad_input("model.assistant_lora", "is a DoRA, which cannot stand beside trained adapters",
                    "merge it into the model first: fluxlora merge");
  if (assistant_file_ && has_dora(targets_))
    throw bad_input("model.assistant_lora", "cannot stand beside DoRA",
                    "merge it into the model first (fluxlora merge), or set lora.type = \"lora\"");
}

/// With the warnings that `fluxlora prepare` gives.
void Run::look_at_pictures() {
  const std::string& trigger = options_.subject.trigger;
  dataset_ = scan(options_.dataset, trigger);
  const int64_t trained = hold_out(dataset_, options_);
  trained_.assign(dataset_.examples.begin(), dataset_.examples.begin() + trained);
  for (const prepare::Finding& finding : prepare::check(dataset_))
    dataset_.warnings.push_back(finding.line());
  const auto clip = open_clip_tokenizer(model_files_.clip_tokenizer);
  const auto t5 = open_t5_tokenizer(model_files_.t5_tokenizer);
  const caption::TriggerReport word = caption::check_trigger(trigger, *clip, t5.get());
  dataset_.notes.push_back(word.split());
  if (!word.fault().empty()) dataset_.warnings.push_back(word.advice());
}

/// From where the run goes on; a checkpoint must be of this model and these pictures.
void Run::find_start(bool resume) {
  const auto hash = [&] {
    std::vector<std::filesystem::path> parts = model_files_.parts();
    for (const auto& lora : {options_.model.assistant_lora, options_.lora.continue_from})
      if (!lora.empty()) parts.push_back(exporting::lora_file_of(lora));
    return content_hash(parts);
  };
  const CheckpointInfo fresh{0, hash(), dataset_.hash,
                             options_.output.metadata_dates ? utc_now() : std::string()};
  start_ = fresh;
  if (!resume) return;
  const auto found = find_checkpoint(paths_);
  if (!found) {
    note("no whole checkpoint was found: starting at step 0");
    return;
  }
  const char* const hint = "go on with what the run began with, or give another output.path";
  if (found->model_hash != fresh.model_hash)
    throw bad_input("model.path", "is not the model that the run began with", hint);
  if (found->dataset_hash != fresh.dataset_hash)
    throw bad_input("dataset.folders", "the pictures or captions are not those the run began with",
                    hint);
  if (found->step > options_.train.steps)
    throw bad_input(
        "train.steps",
        fmt::format("is {}, but the run has done {} already", options_.train.steps, found->step),
        "give more steps, or another output.path");
  start_ = *found;
  saved_step_ = found->step;
  note(fmt::format("going on after step {}", found->step));
}

void Run::open_files() {
  open_log_file(paths_.log());
  write_file_atomically(paths_.config(), texts_.config);
  monitor::cut_metrics(paths_.metrics(), start_.step);
  metrics_ = monitor::make_jsonl(paths_.metrics());
  sinks_.push_back(metrics_.get());
}

void Run::load_networks() {
  const TrainOptions& t = options_.train;
  const Precision precision = transformer_precision(options_.model.precision, device_.is_host());
  PlanInputs inputs =
      plan_inputs(options_, model_files_, device_.is_host(), Stepper::shapes(trained_, options_));
  inputs.validated.clear();
  for (const Example& example : held_out()) inputs.validated.insert(example.size);
  const MemoryPlan plan = plan_memory(inputs, machine_of(device_, options_.memory));
  if (plan.budget > 0)
    note(fmt::format("memory: {:.0f} of {:.0f} MiB planned; {}", mib(plan.device_bytes),
                     mib(plan.budget), plan.summary()));
  model_ = std::make_unique<flux::Transformer>(device_, model_files_.transformer, precision.act,
                                               precision.format, plan.residence);
  load_assistant();
  find_adapters_start(plan.keep);
  if (lora::has_clip(targets_))
    clip_ = std::make_unique<ClipText>(device_, model_files_.clip, precision.act);
  adapters_ =
      std::make_unique<lora::AdapterSet>(device_, lora::Networks{model_->weights(), clip_.get()},
                                         targets_, precision.act, /*trains=*/true);
  adapters_->measure_rows(model_->loaded());
  adapters_->initialise(static_cast<uint64_t>(t.seed), options_.lora.init);
  if (options_.lora.dropout > 0) adapters_->use_dropout(options_.lora);
  if (first_file_) {
    exporting::upload(*adapters_, 0, *first_file_);
    adapters_->refresh();
    first_file_.reset();
  }
  if (options_.lora.continue_from.empty() && starts_off_zero(options_.lora))
    adapters_->subtract_start();
  optimizer_ = optim::make_optimizer(device_, t.optimizer, parameter_parts(*adapters_, t),
                                     adapters_->params().dtype());
  state_ = std::make_unique<State>(State{device_, model_->config(), *adapters_, *optimizer_, 0});
  if (start_.step > 0) load_checkpoint(paths_, start_.step, *state_);
  check_disk();
  if (clip_) clip_->prepare(t.batch_size, /*training=*/true);
  stepper_ =
      std::make_unique<Stepper>(*model_, trained_, encoded_, options_, plan.keep, clip_.get());
  load_validator();
  if (options_.sample.every > 0)
    previews_ = std::make_unique<Previews>(device_, *model_, model_files_, encoded_, options_);
  note(fmt::format("{} pictures, {} adapters, {} trained parameters, {:.0f} MiB for a step, {}",
                   trained_.size(), targets_.size(), adapters_->size(), mib(stepper_->bytes()),
                   device_.name()));
}

void Run::load_validator() {
  if (options_.validate.every == 0) return;
  if (held_out().empty()) {
    note("too few pictures to hold some out: nothing validates this run");
    return;
  }
  std::string names;
  for (const Example& example : held_out())
    names += (names.empty() ? "" : ", ") + example.path.filename().string();
  note(fmt::format("held out to validate: {}", names));
  std::vector<eval::LossPoint> history;
  const monitor::Metrics metrics = monitor::read_metrics(paths_.metrics());
  for (const auto& point : metrics.validations) history.push_back({point.step, point.loss});
  adapters_->set_multiplier(0);  // the drift begins with the base's velocities
  encode_pooled_again();
  validator_ =
      std::make_unique<Validator>(*model_, *adapters_, read_scheduler_config(model_files_),
                                  encoded_, static_cast<int64_t>(trained_.size()), options_);
  adapters_->set_multiplier(1);
  validator_->remember(std::move(history));
}

/// The matrices that adapters begin with, where they are not drawn at random; a checkpoint has its
/// own.
void Run::find_adapters_start(const std::vector<flux::Keep>& keep) {
  const lora::Options& lora = options_.lora;
  if (!lora.continue_from.empty()) {
    note(fmt::format("going on from {}, with its layers, ranks and alphas",
                     lora.continue_from.string()));
  } else if (start_.step == 0 && starts_off_zero(lora)) {
    note(lora.init == "pissa" ? "finding the principal parts of the weights"
                              : "finding the directions of the first gradients");
    first_file_ =
        lora.init == "pissa"
            ? principal_start(*model_, targets_, static_cast<uint64_t>(options_.train.seed))
            : gradient_start(*model_, targets_, {trained_, encoded_, keep}, options_);
  }
}

/// Beside the trained adapters, while steps are made (schnell's training adapter).
void Run::load_assistant() {
  if (!assistant_file_) return;
  assistant_ = std::make_unique<lora::AdapterSet>(device_, model_->weights(),
                                                  assistant_file_->specs, model_->act(),
                                                  /*trains=*/false, lora::Beside::assistant);
  exporting::upload(*assistant_, 0, *assistant_file_);
  assistant_file_.reset();
}

void Run::check_disk() const {
  const int64_t needed = checkpoint_bytes(*state_) * (options_.output.keep + 3);
  std::error_code error;
  const auto space = std::filesystem::space(paths_.root, error);
  if (!error && space.available < static_cast<uintmax_t>(needed))
    throw environment_error(
        paths_.root.string(),
        fmt::format("the disk has {:.0f} MiB left, and the checkpoints need {:.0f}",
                    mib(static_cast<int64_t>(space.available)), mib(needed)),
        "free some space, lower output.keep, or give another output.path");
}

/// Why the run should end before its last step; empty while it should not.
std::string Run::reason_to_end() const {
  const std::chrono::duration<double> now = std::chrono::steady_clock::now() - start_of_steps_;
  if (const double most = 60 * options_.train.max_time; most > 0 && earlier_ + now.count() >= most)
    return fmt::format("train.max_time, {} minutes, is over", options_.train.max_time);
  return validator_ ? validator_->advice().reason : "";
}

Outcome Run::train() {
  start_of_steps_ = std::chrono::steady_clock::now();
  for (const auto& step : monitor::read_metrics(paths_.metrics()).steps) earlier_ += step.seconds;
  validate();
  while (true) {
    paint(state_->step >= options_.train.steps);
    if (stop_()) return stopped();
    if (state_->step >= options_.train.steps) return finish("");
    if (const std::string reason = reason_to_end(); !reason.empty()) return finish(reason);
    step();
    validate();
    const int64_t every = options_.output.checkpoint_every;
    if (state_->step == options_.train.steps || (every > 0 && state_->step % every == 0) ||
        best_so_far())
      save();
  }
}

void Run::step() {
  const auto begin = std::chrono::steady_clock::now();
  const StepResult result = stepper_->run(*state_);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  seconds_ += seconds.count();
  tell(&monitor::Sink::on_step,
       monitor::StepEvent{state_->step, options_.train.steps, result.loss, result.learning_rate,
                          result.grad_norm, seconds.count(), result.timesteps, result.param_norm,
                          result.preserved, result.noise_scale});
}

/// The prompts' vectors as CLIP's adapters make them now.
void Run::encode_pooled_again() {
  if (clip_) eval::encode_pooled_again(*clip_, device_, encoded_.book);
}

/// The same noise and times at every validation; an assistant is off, as it will be in use.
void Run::validate() {
  if (!validator_ || !validator_->due(state_->step)) return;
  const Averaged averaged(*state_);
  if (assistant_) assistant_->set_multiplier(0);
  encode_pooled_again();
  const monitor::ValidationEvent event = validator_->measure(state_->step);
  if (assistant_) assistant_->set_multiplier(1);
  tell(&monitor::Sink::on_validation, event);
}

bool Run::best_so_far() const {
  return validator_ && validator_->best_step() == state_->step;
}

void Run::save() {
  CheckpointInfo info = start_;
  info.step = state_->step;
  if (saved_step_ == info.step) return;
  save_checkpoint(paths_, info, *state_, file_style(options_.output), metadata());
  saved_step_ = info.step;
  remove_old_checkpoints(paths_, options_.output, options_.train.steps,
                         validator_ ? validator_->best_step() : 0);
  note(fmt::format("checkpoint of step {} saved", info.step));
  report(fmt::format("running: {} of {} steps", info.step, options_.train.steps));
}

/// The samples of this step, unless an earlier start made them.
void Run::paint(bool last) {
  if (!previews_ || !(last || Previews::due(options_, state_->step)) ||
      folder_exists(paths_.samples(state_->step)))
    return;
  const Averaged averaged(*state_);
  if (assistant_) assistant_->set_multiplier(0);
  encode_pooled_again();
  const std::vector<std::string> files = previews_->paint(paths_, state_->step, stop_);
  if (assistant_) assistant_->set_multiplier(1);
  if (files.empty()) return;
  tell(&monitor::Sink::on_samples,
       monitor::SamplesEvent{state_->step, files, options_.sample.prompts});
}

/// Leaves the best state as the result. `reason` says why the run ends before its last step.
Outcome Run::finish(const std::string& reason) {
  save();
  const int64_t done = state_->step, steps = options_.train.steps;
  std::string text = done >= steps ? fmt::format("finished: {} steps", done)
                                   : fmt::format("finished after {} of {} steps", done, steps);
  if (!reason.empty()) text += ": " + reason;
  if (validator_) {
    note(fmt::format("validation took {:.1f} s beside {:.1f} s of steps", validator_->seconds(),
                     seconds_));
    const int64_t best = validator_->best_step();
    if (best > 0 && best != done) {
      load_checkpoint(paths_, best, *state_);
      text += fmt::format("; the LoRA is that of step {}, whose validation loss {:.4f} is the best",
                          best, validator_->best_loss());
    }
  }
  paint(/*last=*/true);
  const Averaged averaged(*state_);
  exporting::write_adapters(paths_.lora(), *adapters_, model_->config(),
                            file_style(options_.output), metadata());
  write_before_after(paths_, state_->step);
  return end({false, done, text});
}

Outcome Run::stopped() {
  const int64_t step = state_ ? state_->step : start_.step;
  if (state_ && step > 0) save();
  return end(
      {true, step,
       fmt::format("stopped after {} of {} steps; --resume goes on", step, options_.train.steps)});
}

Outcome Run::end(const Outcome& outcome) {
  report(outcome.reason);
  for (monitor::Sink* sink : sinks_) sink->on_end(outcome.reason);
  return outcome;
}

void Run::report(const std::string& status) const {
  monitor::ReportInfo info;
  info.name = options_.subject.name;
  info.trigger = options_.subject.trigger;
  info.status = status;
  info.config = texts_.config;
  info.prompts = options_.sample.prompts;
  info.warnings = dataset_.warnings;
  info.facts = {{"pictures", std::to_string(trained_.size())}, {"device", device_.name()}};
  monitor::write_report(paths_.root, info);
}

Metadata Run::metadata() const {
  return lora_metadata(options_,
                       {.step = state_->step,
                        .pictures = static_cast<int64_t>(trained_.size()),
                        .guided = model_->config().guidance_embed,
                        .identity = texts_.identity(start_.model_hash, start_.dataset_hash),
                        .started = start_.started});
}

}  // namespace

Trainer::Trainer(Device& device, RunOptions options, Texts texts, Company company)
    : device_(device),
      options_(std::move(options)),
      texts_(std::move(texts)),
      company_(std::move(company)) {
  for (std::string& prompt : options_.sample.prompts)
    prompt = sample_prompt(prompt, options_.subject.trigger);
}

Outcome Trainer::run(bool resume) {
  const RunFolder folder(options_, resume);
  const int64_t steps = options_.train.steps;
  if (folder.finished()) {
    const Outcome outcome{
        false, steps,
        fmt::format("{}: the run is finished, no steps are left of {}; raise train.steps to go on",
                    folder.paths().root.string(), steps)};
    for (monitor::Sink* sink : company_.sinks) sink->on_end(outcome.reason);
    return outcome;
  }
  return Run(device_, options_, texts_, company_, folder).run(resume);
}

}  // namespace fluxlora::train
