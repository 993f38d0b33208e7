// SPDX-License-Identifier: Apache-2.0
#include "model/clip/text_model.h"

#include <algorithm>

#include "base/error.h"
#include "model/source.h"
#include "model/token_ids.h"

namespace fluxlora {
namespace {

constexpr const char* kWeights = "clip weights";
constexpr const char* kWorkspace = "clip workspace";

}  // namespace

ClipText::ClipText(Device& device, const std::filesystem::path& path, DType act)
    : ClipText(device, read_clip_config(path), act) {
  path_ = path;
  const TensorSource source(path, Network::clip);
  weights_.visit(config_, [&](const std::string& name, Tensor& tensor, auto) {
    source.load(device, tensor, name);
  });
}

ClipText::ClipText(Device& device, const ClipConfig& config, DType act)
    : device_(device), config_(config) {
  weights_.layers.resize(static_cast<size_t>(config_.layers));
  const auto describe_weights = [&](Arena& arena) {
    weights_.visit(config_, [&](const std::string&, Tensor& tensor, auto shape) {
      tensor = arena.take(kWeights, act, shape);
    });
  };
  Arena measure;
  describe_weights(measure);
  weight_memory_ = Arena(device, measure.used());
  describe_weights(weight_memory_);
  weights_.visit_linears(
      [&](const std::string&, AdaptedLinear& linear) { linear.weight.format = plain_format(act); });
  z_ = {1, config_.positions, config_.width, config_.heads, config_.hidden, config_.eps, act};
}

void ClipText::prepare(int64_t B, bool training) {
  z_.B = B;
  training_ = training;
  saved_.assign(weights_.layers.size(), {});
  Arena measure;
  describe(measure);
  memory_ = Arena();  // the old workspace goes before the new one comes
  memory_ = Arena(device_, measure.peak());
  describe(memory_);

  std::vector<int32_t> positions(static_cast<size_t>(z_.B * z_.T));
  for (size_t i = 0; i < positions.size(); ++i)
    positions[i] = static_cast<int32_t>(static_cast<int64_t>(i) % z_.T);
  upload_ids(device_, ids_, positions, z_.T, path_);
  device_.ops().embed(position_rows_, ids_, weights_.positions);
}

void ClipText::describe(Arena& arena) {
  const auto take = [&](const std::string&, Tensor& tensor, auto shape, DType dtype) {
    const bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
    tensor = empty ? Tensor() : arena.take(kWorkspace, dtype, shape);
  };
  int64_t widest_rank = 0;
  weights_.visit_linears([&](const std::string&, AdaptedLinear& linear) {
    widest_rank = std::max(widest_rank, linear.kept_columns());
  });
  ids_ = arena.take(kWorkspace, DType::i32, {z_.B, z_.T});
  position_rows_ = arena.take(kWorkspace, z_.act, {z_.B, z_.T, z_.C});
  last_ = arena.take(kWorkspace, z_.act, {z_.B, z_.T, z_.C});
  picked_ = arena.take(kWorkspace, z_.act, {z_.B, 1, z_.C});
  picked_stats_ = arena.take(kWorkspace, z_.stat(), {z_.B, 1, 2});
  pooled_ = arena.take(kWorkspace, z_.act, {z_.B, z_.C});
  scratch_.visit(z_, widest_rank, training_, take);
  if (training_) {
    dx_ = arena.take(kWorkspace, z_.act, {z_.B, z_.T, z_.C});
    d_picked_ = arena.take(kWorkspace, z_.act, {z_.B, 1, z_.C});
  }
  // Last, since without training the layers lie on top of each other.
  const int64_t mark = arena.mark();
  for (size_t i = 0; i < saved_.size(); ++i) {
    if (!training_) arena.rewind(mark);
    saved_[i].visit(z_, weights_.layers[i], take);
  }
}

int64_t ClipText::pooled_position(std::span<const int32_t> text) const {
  if (config_.eos_id == 2)  // of configurations from before the id was right in them
    return std::max_element(text.begin(), text.end()) - text.begin();
  const auto found = std::find(text.begin(), text.end(), config_.eos_id);
  return found == text.end() ? 0 : found - text.begin();
}

const Tensor& ClipText::forward(std::span<const int32_t> ids) {
  CHECK(!saved_.empty(), "clip: prepare() comes before forward()");
  Ops& op = device_.ops();
  upload_ids(device_, ids_, ids, config_.vocabulary, path_);
  op.embed(saved_[0].x, ids_, weights_.tokens);
  op.add_scaled(saved_[0].x, position_rows_, 1);
  for (size_t i = 0; i < saved_.size(); ++i) {
    const Tensor& next = i + 1 < saved_.size() ? saved_[i + 1].x : last_;
    clip::forward(op, z_, weights_.layers[i], saved_[i], next, scratch_);
  }
  places_.clear();
  for (int64_t b = 0; b < z_.B; ++b) {
    places_.push_back(
        pooled_position(ids.subspan(static_cast<size_t>(b * z_.T), static_cast<size_t>(z_.T))));
    op.copy(picked_.item(b), last_.item(b).slice(0, places_.back(), 1));
  }
  const clip::Norm& norm = weights_.final_norm;
  op.layer_norm(pooled_.reshaped({z_.B, 1, z_.C}), picked_stats_, picked_, norm.weight, norm.bias,
                z_.eps);
  return pooled_;
}

void ClipText::backward(const Tensor& d_pooled) {
  CHECK(training_ && !places_.empty(), "clip: backward() needs a forward() that keeps activations");
  const auto trains = [](const clip::Layer& layer) { return layer.trains(); };
  const auto first = std::find_if(weights_.layers.begin(), weights_.layers.end(), trains);
  if (first == weights_.layers.end()) return;

  Ops& op = device_.ops();
  op.layer_norm_bwd(d_picked_, d_pooled.reshaped({z_.B, 1, z_.C}), picked_, picked_stats_,
                    weights_.final_norm.weight, Grad::overwrite);
  op.fill(dx_, 0);
  for (int64_t b = 0; b < z_.B; ++b)
    op.copy(dx_.item(b).slice(0, places_[static_cast<size_t>(b)], 1), d_picked_.item(b));
  const auto stop = static_cast<size_t>(first - weights_.layers.begin());
  for (size_t i = saved_.size(); i-- > stop;)
    clip::backward(op, z_, weights_.layers[i], saved_[i], dx_, scratch_, i == stop);
}

}  // namespace fluxlora
