// SPDX-License-Identifier: Apache-2.0
#include "train/step.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/parallel.h"
#include "base/philox.h"
#include "base/signal.h"
#include "flow/pack.h"
#include "flow/timestep.h"
#include "memory/arena.h"
#include "ops/transfer.h"
#include "train/checkpoint.h"

namespace fluxlora::train {
namespace {

constexpr int64_t kPatchPixels = 4;  // latents of a token, a channel

/// Standard normal numbers (1, C, h, w), drawn channel by channel, then packed: (1, N, 4C).
/// `scratch` holds two such tensors.
void draw_packed(const Tensor& packed, const Tensor& scratch, Philox& random,
                 const Latents& shape) {
  const int64_t C = packed.dim(-1) / 4;
  const Tensor first = scratch.slice(0, 0, packed.size()).reshaped({1, C, shape.h, shape.w});
  const Tensor last =
      scratch.slice(0, packed.size(), packed.size()).reshaped({1, shape.h, shape.w, C});
  std::generate_n(first.as<float>(), first.size(),
                  [&] { return static_cast<float>(random.normal()); });
  flow::channels_last(last, first);
  flow::pack(packed, last);
}

/// Adds offset times a normal number to each channel of the picture.
void add_offset(const Tensor& packed, double offset, Philox& random) {
  const HostTensor shifts(DType::f32, {packed.dim(-1) / 4});
  std::generate_n(shifts.view.as<float>(), shifts.view.size(),
                  [&] { return static_cast<float>(offset * random.normal()); });
  flow::shift_channels(packed, shifts.view);
}

/// As kohya's losses of these names.
Penalty penalty_of(const TrainOptions& o) {
  if (o.loss == "huber") return {o.huber_c, 2 * o.huber_c};
  if (o.loss == "smooth_l1") return {o.huber_c, 2};
  return {};
}

LoaderOptions loader_options(const RunOptions& o) {
  return {static_cast<uint64_t>(o.train.seed), o.train.batch_size, o.train.accumulation,
          o.train.caption_dropout};
}

}  // namespace

/// What a micro-batch takes of the host: all that is random in it, and its pictures.
struct Stepper::Drawn {
  Picks picks;
  HostTensor x0, noise;  // (B, N, C)
  HostTensor mask;       // (B, N, 4); empty when no picture has one
  HostTensor scratch;    // (B, 2 N C)
  HostTensor t, weight;  // (B): flow time, share of each picture in the loss

  /// Makes room for these picks, of pictures of `tokens` (1, N, C).
  void shape_for(const Picks& p, const Tensor& tokens, bool masked) {
    const auto B = static_cast<int64_t>(p.size());
    const int64_t N = tokens.dim(1), C = tokens.dim(2);
    picks = p;
    if (x0.view && x0.view.dim(0) == B && x0.view.dim(1) == N) return;
    for (HostTensor* each : {&x0, &noise}) *each = HostTensor(DType::f32, {B, N, C});
    for (HostTensor* each : {&t, &weight}) *each = HostTensor(DType::f32, {B});
    scratch = HostTensor(DType::f32, {B, 2 * N * C});
    if (masked) mask = HostTensor(DType::f32, {B, N, kPatchPixels});
  }
};

/// The device's memory for micro-batches of one shape.
struct Stepper::Batch {
  BatchShape shape;
  int64_t B, N, C;  // C of a packed token
  flux::Workspace workspace;
  Arena arena;
  Tensor x0, noise;            // (B, N, C)
  Tensor weight;               // (B): share of each picture in the loss
  Tensor preservation_weight;  // (B): the same times train.preservation
  Tensor mask;                 // (B, N, 4); empty when no picture has one

  Batch(flux::Transformer& model, const BatchShape& s, const flux::Sizes& z,
        const flux::WorkspaceOptions& options, bool masked)
      : shape(s), B(z.B), N(z.N()), C(model.config().in_channels), workspace(model, z, options) {
    Arena measure;
    describe(measure, masked);
    arena = Arena(model.device(), measure.used());
    describe(arena, masked);
  }

  void describe(Arena& a, bool masked) {
    x0 = a.take("training batch", DType::f32, {B, N, C});
    noise = a.take("training batch", DType::f32, {B, N, C});
    weight = a.take("training batch", DType::f32, {B});
    if (masked) mask = a.take("training batch", DType::f32, {B, N, kPatchPixels});
    preservation_weight = a.take("training batch", DType::f32, {B});
  }
};

Stepper::Stepper(flux::Transformer& model, const std::vector<Example>& examples,
                 const Encoded& encoded, const RunOptions& options,
                 const std::vector<flux::Keep>& keep, ClipText* clip)
    : model_(model),
      clip_(clip),
      examples_(examples),
      encoded_(encoded),
      options_(options),
      loader_(examples, loader_options(options)),
      masked_(std::any_of(encoded.latents.begin(), encoded.latents.end(),
                          [](const Latents& latents) { return bool(latents.mask.view); })) {
  for (const BatchShape& shape : loader_.shapes()) {
    const auto same_size = [&](const Example& e) { return e.size == shape.size; };
    const auto example = std::find_if(examples.begin(), examples.end(), same_size);
    const Latents& latents = encoded.latents[static_cast<size_t>(example - examples.begin())];
    const flux::Sizes z =
        model.sizes(shape.count, options.model.text_tokens, latents.h / 2, latents.w / 2);
    batches_.push_back(std::make_unique<Batch>(
        model, shape, z,
        flux::WorkspaceOptions{.training = true, .pooled_grad = clip != nullptr, .keep = keep},
        masked_));
  }
  if (clip) {
    const int64_t wide = model.config().vec_in;
    d_pooled_memory_ = model.device().allocate(clip->batch() * wide * dtype_size(model.act()));
    d_pooled_ = Tensor(model.act(), {clip->batch(), wide}, d_pooled_memory_.data());
    clip_ids_.resize(static_cast<size_t>(clip->batch() * clip->config().positions));
  }
  const int64_t A = options.train.accumulation, B = options.train.batch_size, losses = A * B;
  results_memory_ =
      model_.device().allocate((2 * losses + 2) * static_cast<int64_t>(sizeof(float)));
  results_ = Tensor(DType::f32, {2 * losses + 2}, results_memory_.data());
  losses_ = results_.slice(0, 0, losses).reshaped({A, B});
  preserved_ = results_.slice(0, losses, losses).reshaped({A, B});
  norm_ = results_.slice(0, 2 * losses, 1);
  param_norm_ = results_.slice(0, 2 * losses + 1, 1);
  warm_up();
}

Stepper::~Stepper() = default;

std::vector<BatchShape> Stepper::shapes(const std::vector<Example>& examples,
                                        const RunOptions& options) {
  return Loader(examples, loader_options(options)).shapes();
}

int64_t Stepper::bytes() const {
  int64_t bytes = results_memory_.bytes() + d_pooled_memory_.bytes();
  for (const auto& batch : batches_) bytes += batch->workspace.bytes() + batch->arena.peak();
  return bytes;
}

/// Touches every page and plan that a step needs. Weights of 0 make all gradients 0.
void Stepper::warm_up() {
  Ops& op = model_.device().ops();
  op.fill(results_, 0);
  for (const auto& batch : batches_) {
    const flux::Inputs& in = batch->workspace.inputs();
    for (const Tensor& t : {in.img, in.txt, in.pooled, in.t, in.guidance}) op.fill(t, 0);
    op.fill(batch->workspace.d_prediction(), 0);
    forward(*batch);
    backward(*batch);
  }
  model_.device().synchronize();
}

const Latents& Stepper::latents_of(const Pick& pick) const {
  const auto& all = pick.mirrored ? encoded_.mirrored : encoded_.latents;
  return all[static_cast<size_t>(pick.example)];
}

Stepper::Batch& Stepper::batch_for(const Picks& picks) {
  const BatchShape shape{examples_[static_cast<size_t>(picks.front().example)].size,
                         static_cast<int64_t>(picks.size())};
  for (const auto& batch : batches_)
    if (batch->shape == shape) return *batch;
  check_failed("shape", __FILE__, __LINE__, "Stepper: a batch of a shape that was not planned");
}

/// One place of a batch: everything random in it is a function of (seed, step, place).
void Stepper::draw_place(Drawn& drawn, int64_t b, int64_t step, int64_t place) const {
  const auto random = [&](Draw purpose) {
    return Philox(static_cast<uint64_t>(options_.train.seed), purpose, static_cast<uint32_t>(step),
                  static_cast<uint32_t>(place));
  };
  const auto row = [&](const HostTensor& t) { return t.view.slice(0, b, 1); };
  const Pick& pick = drawn.picks[static_cast<size_t>(b)];
  const Latents& latents = latents_of(pick);
  const Tensor scratch = drawn.scratch.view.item(b);
  const Tensor x0 = row(drawn.x0);  // (1, N, C)
  Philox noise = random(Draw::noise);
  draw_packed(row(drawn.noise), scratch, noise, latents);
  if (options_.train.noise_offset > 0)
    add_offset(row(drawn.noise), options_.train.noise_offset, noise);
  std::copy_n(latents.tokens.view.as<const float>(), x0.size(), x0.as<float>());

  if (drawn.mask.view) {
    const Tensor counts = row(drawn.mask);
    if (const Tensor& mask = latents.mask.view)
      std::copy_n(mask.as<const float>(), mask.size(), counts.as<float>());
    else
      std::fill_n(counts.as<float>(), counts.size(), 1.0f);
  }

  Philox time = random(Draw::timestep);
  const double t = flow::draw_timestep(options_.train.timestep, time, x0.dim(1));
  drawn.t.view.as<float>()[b] = static_cast<float>(t);
  const double weight = examples_[static_cast<size_t>(pick.example)].weight *
                        flow::time_weight(options_.train.timestep, t);
  const double share = static_cast<double>(drawn.t.view.size() * options_.train.accumulation);
  drawn.weight.view.as<float>()[b] = static_cast<float>(weight / share);
}

void Stepper::draw(Drawn& drawn, const Picks& picks, int64_t step, int64_t micro_step) const {
  drawn.shape_for(picks, latents_of(picks.front()).tokens.view, masked_);
  parallel_for(static_cast<int64_t>(picks.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b)
      draw_place(drawn, b, step, micro_step * options_.train.batch_size + b);
  });
}

/// What was drawn ahead, when it is that; else it is drawn now.
const std::vector<Stepper::Drawn>& Stepper::drawn_for(int64_t step,
                                                      const std::vector<Picks>& micro_batches) {
  const bool ahead = ahead_.valid() && ahead_.get() == step;
  if (ahead) std::swap(drawn_, next_);
  drawn_.resize(micro_batches.size());
  for (size_t m = 0; m < micro_batches.size(); ++m)
    if (!ahead || drawn_[m].picks != micro_batches[m])
      draw(drawn_[m], micro_batches[m], step, static_cast<int64_t>(m));
  return drawn_;
}

/// Draws for a step on a thread of its own: a GPU must not wait for a million normal numbers. A CPU
/// has no time to spare beside its step.
void Stepper::draw_ahead(int64_t step) {
  if (model_.device().is_host() || step >= options_.train.steps) return;
  next_.resize(static_cast<size_t>(options_.train.accumulation));
  ahead_ = std::async(std::launch::async, [this, step] {
    leave_signals_to_main_thread();
    for (size_t m = 0; m < next_.size(); ++m)
      draw(next_[m], loader_.batch(step, static_cast<int64_t>(m)), step, static_cast<int64_t>(m));
    return step;
  });
}

void Stepper::fill(Batch& batch, const Drawn& drawn) {
  Device& device = model_.device();
  const flux::Inputs& in = batch.workspace.inputs();
  device.upload(batch.x0, drawn.x0.view.data());
  device.upload(batch.noise, drawn.noise.view.data());
  device.upload(batch.weight, drawn.weight.view.data());
  if (batch.mask) device.upload(batch.mask, drawn.mask.view.data());
  device.ops().fill(batch.preservation_weight, 0);
  device.ops().add_scaled(batch.preservation_weight, batch.weight, options_.train.preservation);
  device.upload(in.t, drawn.t.view.data());
  device.ops().fill(in.guidance, options_.train.guidance);
  for (int64_t b = 0; b < batch.B; ++b) {
    const Pick& pick = drawn.picks[static_cast<size_t>(b)];
    const auto& prompts = encoded_.prompts[static_cast<size_t>(pick.example)];
    set_prompt(
        batch, b,
        pick.drop_caption ? *encoded_.no_prompt : *prompts[static_cast<size_t>(pick.caption)]);
  }
}

void Stepper::set_prompt(Batch& batch, int64_t b, const eval::PromptStates& prompt) {
  const flux::Inputs& in = batch.workspace.inputs();
  upload_as(model_.device(), in.txt.item(b), prompt.txt.view);
  upload_as(model_.device(), in.pooled.item(b), prompt.pooled.view);
  if (clip_)
    std::copy(prompt.clip_ids.begin(), prompt.clip_ids.end(),
              clip_ids_.begin() + b * clip_->config().positions);
}

/// Of CLIP, where it is adapted, and the transformer.
void Stepper::forward(Batch& batch) {
  if (clip_)
    model_.device().ops().copy(batch.workspace.inputs().pooled,
                               clip_->forward(clip_ids_).slice(0, 0, batch.B));
  batch.workspace.forward();
}

/// A smaller batch leaves texts of an earlier one in CLIP's, whose gradients are 0.
void Stepper::backward(Batch& batch) {
  Ops& op = model_.device().ops();
  batch.workspace.backward();
  if (!clip_) return;
  op.fill(d_pooled_, 0);
  op.copy(d_pooled_.slice(0, 0, batch.B), batch.workspace.d_pooled());
  clip_->backward(d_pooled_);
}

/// Differential preservation: with the captions that have no trigger word, the velocity should be
/// the base model's at the same noisy pictures. x0 and noise of the batch are used up: the target
/// noise - x0 becomes base - 0.
void Stepper::preserve(Batch& batch, const Picks& picks, lora::AdapterSet& adapters,
                       const Tensor& losses) {
  Ops& op = model_.device().ops();
  flux::Workspace& w = batch.workspace;
  for (int64_t b = 0; b < batch.B; ++b) {
    const Pick& pick = picks[static_cast<size_t>(b)];
    const auto& prompts = encoded_.preserved[static_cast<size_t>(pick.example)];
    set_prompt(batch, b, *prompts[static_cast<size_t>(pick.caption)]);
  }
  adapters.set_multiplier(0);
  forward(batch);
  op.cast(batch.noise, w.prediction());
  op.fill(batch.x0, 0);
  adapters.set_multiplier(1);
  forward(batch);
  op.flow_loss(losses, w.d_prediction(), w.prediction(), batch.x0, batch.noise,
               batch.preservation_weight, {}, penalty_of(options_.train));
  backward(batch);
}

StepResult Stepper::accumulate(lora::AdapterSet& adapters, int64_t step,
                               const std::vector<Picks>& micro_batches) {
  Device& device = model_.device();
  Ops& op = device.ops();
  StepResult result;
  std::vector<float> weights;
  adapters.clear_gradients();
  const std::vector<Drawn>& drawn = drawn_for(step, micro_batches);
  draw_ahead(step + 1);
  for (size_t m = 0; m < micro_batches.size(); ++m) {
    Batch& batch = batch_for(micro_batches[m]);
    fill(batch, drawn[m]);
    flux::Workspace& w = batch.workspace;
    adapters.draw_dropout(static_cast<uint64_t>(options_.train.seed), step,
                          static_cast<int64_t>(m));
    op.flow_interpolate(w.inputs().img, batch.x0, batch.noise, w.inputs().t);
    forward(batch);
    op.flow_loss(losses_.item(static_cast<int64_t>(m)).slice(0, 0, batch.B), w.d_prediction(),
                 w.prediction(), batch.x0, batch.noise, batch.weight, batch.mask,
                 penalty_of(options_.train));
    backward(batch);
    if (options_.train.preservation > 0)
      preserve(batch, micro_batches[m], adapters,
               preserved_.item(static_cast<int64_t>(m)).slice(0, 0, batch.B));
    const float* t = drawn[m].t.view.as<const float>();
    result.timesteps.insert(result.timesteps.end(), t, t + batch.B);
    const float* share = drawn[m].weight.view.as<const float>();
    weights.insert(weights.end(), share, share + batch.B);
    weights.resize((m + 1) * static_cast<size_t>(losses_.dim(1)), 0.0f);
  }
  adapters.stop_dropout();
  adapters.finish_gradients();
  op.global_norm(norm_, adapters.grads());
  op.global_norm(param_norm_, adapters.params());

  std::vector<float> host(static_cast<size_t>(results_.size()));
  device.download(host.data(), results_);
  const auto mean = [&](const Tensor& losses) {
    const float* const values = host.data() + (losses.as<float>() - results_.as<float>());
    double sum = 0;
    for (size_t i = 0; i < weights.size(); ++i)
      if (weights[i] != 0) sum += static_cast<double>(weights[i]) * double{values[i]};
    return sum;
  };
  result.loss = mean(losses_);
  if (options_.train.preservation > 0) result.preserved = mean(preserved_);
  result.param_norm = host.back();
  result.grad_norm = host[host.size() - 2];
  return result;
}

StepResult Stepper::gradients(lora::AdapterSet& adapters, int64_t step) {
  std::vector<Picks> micro_batches;
  for (int64_t m = 0; m < options_.train.accumulation; ++m)
    micro_batches.push_back(loader_.batch(step, m));
  return accumulate(adapters, step, micro_batches);
}

StepResult Stepper::run(State& state) {
  StepResult result = gradients(state.adapters, state.step);
  if (!std::isfinite(result.loss)) throw not_finite("the loss", result.loss, state.step + 1);
  if (!std::isfinite(result.grad_norm))
    throw not_finite("the norm of the gradients", result.grad_norm, state.step + 1);
  const double rate =
      optim::learning_rate(options_.train.schedule, state.step, options_.train.steps);
  result.learning_rate = state.optimizer.step(state.adapters.params(), state.adapters.grads(),
                                              norm_, rate, state.step + 1);
  if (const auto noise = state.optimizer.noise())
    result.noise_scale = *noise * static_cast<double>(result.timesteps.size());
  state.adapters.refresh();
  ++state.step;
  return result;
}

}  // namespace fluxlora::train
