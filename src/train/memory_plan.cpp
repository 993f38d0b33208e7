// SPDX-License-Identifier: Apache-2.0
#include "train/memory_plan.h"

#include <algorithm>
#include <charconv>
#include <memory>

#include <fmt/format.h>

#include "base/error.h"
#include "eval/prompt.h"
#include "lora/adapter.h"
#include "model/t5/encoder.h"
#include "optim/optimizer.h"
#include "train/groups.h"
#include "train/start.h"

namespace fluxlora::train {
namespace {

/// Numbers in the networks of FLUX.1, for plans where their files are not there.
constexpr int64_t kVaeNumbers = 83'819'683, kClipNumbers = 123'060'480;

using Owners = std::vector<MemoryOwner>;

int64_t sum(const Owners& owners, bool device) {
  int64_t bytes = 0;
  for (const MemoryOwner& o : owners)
    if (o.device == device) bytes += o.bytes;
  return bytes;
}

std::string gib(int64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (int64_t{1} << 30));
}

/// A run on paper: everything that the trainer loads, in its order.
class PaperRun {
 public:
  PaperRun(const PlanInputs& inputs, const Machine& machine)
      : in_(inputs),
        machine_(machine),
        paper_(machine.rates.value_or(assumed_rates())),
        model_(paper_, inputs.config, inputs.precision.act, inputs.precision.format),
        clip_(inputs.options.lora.text_encoder
                  ? std::make_unique<ClipText>(paper_, inputs.clip, inputs.precision.act)
                  : nullptr),
        adapters_(paper_, {model_.weights(), clip_.get()},
                  lora::select_targets(inputs.config, inputs.options.lora, inputs.clip),
                  inputs.precision.act,
                  /*trains=*/true) {
    if (inputs.options.lora.dropout > 0) adapters_.use_dropout(inputs.options.lora);
    if (starts_off_zero(inputs.options.lora)) adapters_.subtract_start();
    if (clip_) clip_->prepare(inputs.options.train.batch_size, /*training=*/true);
  }

  MemoryPlan plan();

 private:
  flux::Sizes sizes(Size size, int64_t count) const {
    const int64_t step = 2 * in_.vae.factor();
    return model_.sizes(count, in_.options.model.text_tokens, size.height / step,
                        size.width / step);
  }
  std::unique_ptr<flux::Workspace> workspace(const BatchShape& shape,
                                             const std::vector<flux::Keep>& keep) {
    return std::make_unique<flux::Workspace>(
        model_, sizes(shape.size, shape.count),
        flux::WorkspaceOptions{.training = true, .pooled_grad = clip_ != nullptr, .keep = keep});
  }
  PlanProblem problem();
  Owners training_owners(const Plan& plan);
  void add_between_steps(Owners& owners);
  Owners encoding_owners() const;
  double seconds(const Plan& plan, const PlanProblem& problem);

  const PlanInputs& in_;
  const Machine& machine_;
  PaperDevice paper_;
  flux::Transformer model_;
  std::unique_ptr<ClipText> clip_;  // when it carries adapters
  lora::AdapterSet adapters_;
  double other_seconds_ = 0;  // of a step, beside the blocks
};

std::vector<flux::Keep> levels(const Plan& plan) {
  std::vector<flux::Keep> keep;
  for (const size_t level : plan.level) keep.push_back(static_cast<flux::Keep>(level));
  return keep;
}

/// Blocks of all shapes together: their workspaces are all there at once, and a step takes the mean
/// of their times.
PlanProblem PaperRun::problem() {
  PlanProblem problem;
  const double share = 1.0 / static_cast<double>(in_.shapes.size());
  for (const BatchShape& shape : in_.shapes) {
    const auto ws = workspace(shape, {});
    const std::vector<PlanBlock> costs = ws->costs(paper_);
    if (problem.blocks.empty()) {
      problem.blocks = costs;
      for (PlanBlock& block : problem.blocks) {
        block.forward = block.backward = 0;
        for (auto& level : block.levels) level = {};
      }
    }
    double in_blocks = 0;
    for (size_t n = 0; n < costs.size(); ++n) {
      PlanBlock& block = problem.blocks[n];
      block.forward += share * costs[n].forward;
      block.backward += share * costs[n].backward;
      in_blocks += costs[n].forward + costs[n].backward;
      for (size_t l = 0; l < costs[n].levels.size(); ++l) {
        block.levels[l].kept += costs[n].levels[l].kept;
        block.levels[l].remake += share * costs[n].levels[l].remake;
        for (size_t i : {0u, 1u}) block.levels[l].shared[i] += costs[n].levels[l].shared[i];
      }
    }
    paper_.take_total();
    ws->forward();
    ws->backward();
    other_seconds_ += share * (paper_.take_total() - in_blocks);
  }
  problem.link = machine_.rates.value_or(assumed_rates()).link;
  problem.budget = machine_.budget;
  problem.host_budget = machine_.host_budget;
  // What a plan cannot change: everything, less the blocks at their lowest level and their weights.
  Plan lowest;
  lowest.level.assign(problem.blocks.size(), 0);
  for (auto& part : lowest.visits) part.assign(problem.blocks.size(), false);
  Owners owners = training_owners(lowest);
  add_between_steps(owners);
  problem.fixed = sum(owners, true);
  std::array<int64_t, 2> shared{};
  for (const PlanBlock& block : problem.blocks) {
    problem.fixed -= block.levels[0].kept + block.weights[0] + block.weights[1];
    for (size_t i : {0u, 1u}) shared[i] = std::max(shared[i], block.levels[0].shared[i]);
  }
  problem.fixed -= shared[0] + shared[1];
  return problem;
}

Owners PaperRun::training_owners(const Plan& plan) {
  Owners owners;
  const auto add = [&](const char* name, int64_t bytes, bool device = true) {
    if (bytes > 0) owners.push_back({name, bytes, device});
  };
  add("driver context", machine_.context);
  const flux::LoadedWeights weights(paper_, in_.config, in_.precision.act, in_.precision.format,
                                    {plan.visits});
  add("transformer weights", weights.device_bytes());
  if (clip_) add("clip", clip_->weight_bytes() + clip_->workspace_bytes());
  add("visiting weights", weights.host_bytes(), false);
  const int64_t values = adapters_.size() * dtype_size(adapters_.params().dtype());
  add("adapters", adapters_.bytes() - values);
  add("gradients of adapters", values);
  const int64_t before = paper_.bytes();
  const auto optimizer = optim::make_optimizer(paper_, in_.options.train.optimizer,
                                               parameter_parts(adapters_, in_.options.train),
                                               adapters_.params().dtype());
  add("optimizer", paper_.bytes() - before);
  int64_t activations = 0, batches = 0;
  for (const BatchShape& shape : in_.shapes) {
    const auto ws = workspace(shape, levels(plan));
    activations += ws->bytes();
    batches += 2 * ws->inputs().img.size() * 4;
  }
  add("activations", activations);
  add("training batches", batches);
  add("work memory", paper_.work_bytes());
  return owners;
}

/// Between steps, while the training memory is there: pictures are validated, or samples painted,
/// or their latents decoded, each in memory of its own, which is given back.
void PaperRun::add_between_steps(Owners& owners) {
  MemoryOwner largest{"validation", 0, true};
  for (const Size size : in_.validated)
    largest.bytes += flux::Workspace(model_, sizes(size, 1)).bytes();
  const SampleOptions& s = in_.options.sample;
  if (s.every > 0) {
    const Size size{static_cast<int>(s.width), static_cast<int>(s.height)};
    const flux::Workspace painter(model_, sizes(size, 1));
    const MemoryOwner samples{"samples", painter.bytes(), true};
    const MemoryOwner vae{
        "vae",
        in_.vae_weights + Vae::workspace_bytes(in_.vae, in_.precision.act, 1, s.height, s.width),
        true};
    for (const MemoryOwner& other : {samples, vae})
      if (other.bytes > largest.bytes) largest = other;
  }
  if (largest.bytes > 0) owners.push_back(largest);
}

Owners PaperRun::encoding_owners() const {
  const DType act = in_.precision.act;
  int64_t vae = 0;
  for (const BatchShape& shape : in_.shapes)
    vae = std::max(vae, in_.vae_weights + Vae::workspace_bytes(in_.vae, act, 1, shape.size.height,
                                                               shape.size.width));
  Owners owners;
  if (machine_.context > 0) owners.push_back({"driver context", machine_.context, true});
  const int64_t work = paper_.work_bytes(/*backward=*/false);
  if (vae + work > in_.text_encoder) {
    owners.push_back({"work memory", work, true});
    owners.push_back({"vae", vae, true});
  } else {
    owners.push_back({"text encoder", in_.text_encoder, true});
  }
  return owners;
}

double PaperRun::seconds(const Plan& plan, const PlanProblem& problem) {
  const auto optimizer = optim::make_optimizer(paper_, in_.options.train.optimizer,
                                               parameter_parts(adapters_, in_.options.train),
                                               adapters_.params().dtype());
  const HostTensor norm(DType::f32, {1});
  paper_.take_total();
  paper_.ops().global_norm(norm.view, adapters_.grads());
  optimizer->step(adapters_.params(), adapters_.grads(), norm.view, 1e-4, 1);
  adapters_.refresh();
  const double update = paper_.take_total();
  return static_cast<double>(in_.options.train.accumulation) *
             (simulate(problem, plan) + other_seconds_) +
         update;
}

MemoryPlan PaperRun::plan() {
  const PlanProblem problem = this->problem();
  const Owners encoding = encoding_owners();
  const std::optional<Plan> found = make_plan(problem);
  const int64_t least = std::max(found ? found->device_bytes : smallest_plan(problem).device_bytes,
                                 sum(encoding, true));
  if (found && machine_.budget > 0 && sum(encoding, true) > machine_.budget)
    throw environment_error(
        "memory.vram",
        fmt::format("{} do not suffice: \"{}\" takes {} before training", gib(machine_.budget),
                    encoding.back().name, gib(sum(encoding, true))),
        "allow more");
  if (!found || (machine_.budget > 0 && least > machine_.budget)) {
    const bool host =
        found == std::nullopt && smallest_plan(problem).device_bytes <= problem.budget;
    throw environment_error(
        host ? "memory.ram" : "memory.vram",
        host ? fmt::format("{} of pinned memory do not suffice for weights that visit the GPU",
                           gib(machine_.host_budget))
             : fmt::format("{} do not suffice: this run takes {} at the least",
                           gib(machine_.budget), gib(least)),
        host ? "allow more, or give the GPU more memory"
             : "allow more, or lower dataset.resolution, train.batch_size, lora.rank or the size "
               "of samples, or set model.precision = \"fp8\" or \"nf4\"");
  }
  MemoryPlan plan;
  plan.budget = machine_.budget;
  plan.residence = {found->visits};
  plan.keep = levels(*found);
  plan.owners = training_owners(*found);
  add_between_steps(plan.owners);
  plan.phase = "train";
  plan.host_bytes = sum(plan.owners, false);
  if (sum(encoding, true) > sum(plan.owners, true)) {
    plan.owners = encoding;
    plan.phase = "encode";
  }
  plan.device_bytes = sum(plan.owners, true);
  if (machine_.rates) plan.seconds_per_step = seconds(*found, problem);
  return plan;
}

}  // namespace

std::string MemoryPlan::summary() const {
  std::array<int, flux::kKeepLevels.size()> blocks{};
  for (const flux::Keep level : keep) ++blocks[static_cast<size_t>(level)];
  std::array<int64_t, 2> visitors{};
  for (const flux::Part part : flux::kParts) {
    const auto& list = residence.visits[static_cast<size_t>(part)];
    visitors[static_cast<size_t>(part)] = std::count(list.begin(), list.end(), true);
  }
  std::string text = fmt::format(
      "of {} blocks {} keep everything, {} their products, {} attention, "
      "{} their input",
      keep.size(), blocks[3], blocks[2], blocks[1], blocks[0]);
  if (visitors[0] + visitors[1] > 0)
    text += fmt::format("; the weights of {} and the modulation of {} visit from the host",
                        visitors[0], visitors[1]);
  return text;
}

PlanInputs plan_inputs(const RunOptions& options, const ModelFiles& model, bool on_host,
                       const std::vector<BatchShape>& shapes) {
  PlanInputs in;
  in.config = flux::read_config(model.transformer);
  in.precision = transformer_precision(options.model.precision, on_host);
  in.options = options;
  in.shapes = shapes;
  if (options.validate.every > 0)
    for (const BatchShape& shape : shapes) in.validated.insert(shape.size);
  const int64_t width = dtype_size(in.precision.act);
  const auto weights = [&](const std::filesystem::path& path, Network network, int64_t standard) {
    return width * (path.empty() ? standard : TensorSource(path, network).numbers());
  };
  if (!model.vae.empty()) in.vae = read_vae_config(model.vae);
  in.vae_weights = weights(model.vae, Network::vae, kVaeNumbers);
  if (!model.clip.empty()) in.clip = read_clip_config(model.clip);
  const Precision text = text_precision(options.model.text_precision, on_host);
  const T5Config t5 = model.t5.empty() ? T5Config{} : read_t5_config(model.t5);
  in.text_encoder =
      std::max(weights(model.clip, Network::clip, kClipNumbers),
               T5Encoder::bytes(t5, text.act, text.format, options.model.text_tokens));
  return in;
}

std::string settle_text_precision(RunOptions& options, const ModelFiles& model, bool on_host,
                                  const Machine& machine) {
  std::string& word = options.model.text_precision;
  if (word != "auto" || machine.budget == 0) return {};
  word = eval::automatic_precision(model, options.model.text_tokens, on_host,
                                   std::max<int64_t>(machine.budget - machine.context, 1));
  if (word == "auto") return {};
  return fmt::format("model.text_precision = {}: wider weights of the T5 encoder do not fit {}",
                     word, gib(machine.budget));
}

Machine machine_of(const Device& device, const MemoryOptions& options) {
  Machine machine{.name = device.name()};
  const auto amount = [](const char* key, const std::string& text) {
    return text.empty() ? 0 : parse_bytes(key, text);
  };
  machine.budget = amount("memory.vram", options.vram);
  machine.host_budget = amount("memory.ram", options.ram);
  const MemoryInfo memory = device.memory();
  if (memory.total == 0) return machine;
  machine.context = kDriverContext;  // taken already
  if (machine.budget == 0) machine.budget = memory.free + kDriverContext;
  if (const auto kind = find_gpu(machine.name)) machine.rates = kind->rates;
  return machine;
}

MemoryPlan plan_memory(const PlanInputs& inputs, const Machine& machine) {
  return PaperRun(inputs, machine).plan();
}

int64_t parse_bytes(const std::string& where, const std::string& text) {
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  std::string unit(rest, end);
  std::erase(unit, ' ');
  constexpr std::pair<const char*, double> kUnits[] = {
      {"", 1},     {"B", 1},    {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0},
      {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}};
  for (const auto& [name, factor] : kUnits)
    if (error == std::errc() && unit == name && number > 0 && number * factor < 1e15)
      return static_cast<int64_t>(number * factor);
  throw bad_input(where, fmt::format("\"{}\" is not an amount of memory", text),
                  "give a number with its unit, such as \"16GiB\" or \"12000MiB\"");
}

}  // namespace fluxlora::train
