// SPDX-License-Identifier: Apache-2.0
#include "model/t5/encoder.h"

#include <type_traits>

#include "base/error.h"
#include "memory/gpus.h"
#include "model/source.h"
#include "model/t5/relative_bias.h"
#include "model/token_ids.h"
#include "ops/paper.h"

namespace fluxlora {
namespace {

constexpr const char* kWeights = "t5 weights";
constexpr const char* kWorkspace = "t5 workspace";

// Some files hold the token table under the encoder's own name, alone or beside the shared one.
TensorSource open_source(const std::filesystem::path& path) {
  TensorSource source(path, Network::t5);
  if (!source.contains("shared.weight"))
    source.set_names({{"shared.weight", {{.stored = "encoder.embed_tokens.weight"}}}});
  return source;
}

}  // namespace

T5Encoder::T5Encoder(Device& device, const T5Config& config, DType act, WeightFormat format)
    : device_(device), config_(config), act_(act) {
  weights_.blocks.resize(static_cast<size_t>(config_.layers));
  const auto describe_weights = [&](Arena& arena) {
    weights_.visit(config_, [&](const std::string&, auto& parameter, auto shape) {
      if constexpr (std::is_same_v<decltype(parameter), Weight&>)
        parameter = arena.take(kWeights, format, shape.begin()[0], shape.begin()[1]);
      else
        parameter = arena.take(kWeights, act, shape);
    });
  };
  Arena measure;
  describe_weights(measure);
  weight_memory_ = Arena(device, measure.used());
  describe_weights(weight_memory_);
}

T5Encoder::T5Encoder(Device& device, const std::filesystem::path& path, DType act,
                     WeightFormat format)
    : T5Encoder(device, read_t5_config(path), act, format) {
  path_ = path;
  const TensorSource source = open_source(path);
  weights_.visit(config_, [&](const std::string& name, auto& parameter, auto) {
    source.load(device, parameter, name);
  });
  position_table_ =
      source.read("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                  {config_.buckets, config_.heads}, act);
}

int64_t T5Encoder::bytes(const T5Config& config, DType act, WeightFormat format, int64_t tokens) {
  PaperDevice paper(assumed_rates());  // times do not matter
  T5Encoder encoder(paper, config, act, format);
  encoder.prepare(1, tokens);
  encoder.forward(std::vector<int32_t>(static_cast<size_t>(tokens), 0));
  return paper.bytes() + paper.work_bytes(/*backward=*/false);
}

void T5Encoder::prepare(int64_t B, int64_t L) {
  B_ = B;
  L_ = L;
  Arena measure;
  describe(measure);
  memory_ = Arena();  // the old workspace goes before the new one comes
  memory_ = Arena(device_, measure.used());
  describe(memory_);
  if (!position_table_.view) return;  // on paper
  const HostTensor bias(act_, {config_.heads, L, L});
  t5::fill_bias(bias.view, position_table_.view, config_);
  device_.upload(bias_, bias.view.data());
}

void T5Encoder::describe(Arena& arena) {
  const auto take = [&](int64_t columns) {
    return arena.take(kWorkspace, act_, {B_, L_, columns});
  };
  ids_ = arena.take(kWorkspace, DType::i32, {B_, L_});
  bias_ = arena.take(kWorkspace, act_, {config_.heads, L_, L_});
  for (Tensor* t : {&h_, &n_, &y_}) *t = take(config_.width);
  for (Tensor* t : {&q_, &k_, &v_, &attn_}) *t = take(config_.heads * config_.head_width);
  for (Tensor* t : {&gate_, &up_, &g_}) *t = take(config_.hidden);
}

const Tensor& T5Encoder::forward(std::span<const int32_t> ids) {
  CHECK(B_ > 0, "t5: prepare() comes before forward()");
  Ops& op = device_.ops();
  upload_ids(device_, ids_, ids, config_.vocabulary, path_);
  op.embed(h_, ids_, weights_.tokens);
  for (const t5::Block& w : weights_.blocks) block(w);
  op.rms_norm(n_, h_, weights_.final_norm, config_.eps);
  return n_;
}

// Scores are not divided by the root of the head's width: the weights are trained for that.
void T5Encoder::block(const t5::Block& w) {
  Ops& op = device_.ops();
  op.rms_norm(n_, h_, w.attention_norm, config_.eps);
  const LinearCall projections[] = {{q_, n_, &w.q, {}}, {k_, n_, &w.k, {}}, {v_, n_, &w.v, {}}};
  op.linear_group(projections);
  op.attention(attn_, {}, q_, k_, v_, {.heads = config_.heads, .scale = 1, .bias = bias_});
  op.linear(y_, attn_, w.o, {});
  op.add_scaled(h_, y_, 1);

  op.rms_norm(n_, h_, w.feed_norm, config_.eps);
  const LinearCall halves[] = {{gate_, n_, &w.wi_0, {}}, {up_, n_, &w.wi_1, {}}};
  op.linear_group(halves);
  op.gelu_gate(g_, gate_, up_);
  op.linear(y_, g_, w.wo, {});
  op.add_scaled(h_, y_, 1);
}

}  // namespace fluxlora
