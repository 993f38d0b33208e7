// SPDX-License-Identifier: Apache-2.0
#include "model/t5/config.h"

#include "base/file.h"
#include "model/json_file.h"
#include "model/source.h"

namespace fluxlora {
namespace {

/// What the tensors say (flux-facts 5.2).
T5Config config_of(const TensorSource& source) {
  const std::string attention = "encoder.block.0.layer.0.SelfAttention.";
  const std::string table = attention + "relative_attention_bias.weight";
  const std::string gate = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight";
  const bool shared = source.contains("shared.weight");
  T5Config c;
  c.vocabulary = source.size(shared ? "shared.weight" : "encoder.embed_tokens.weight", 0, 2);
  c.width = source.size(attention + "q.weight", 1, 2);
  c.buckets = source.size(table, 0, 2);
  c.heads = source.size(table, 1, 2);
  const int64_t inner = source.size(attention + "q.weight", 0, 2);
  if (inner % c.heads || c.buckets % 4 || c.max_distance <= c.buckets / 4)
    source.fail("has " + std::to_string(c.heads) + " heads for a width of " +
                std::to_string(inner) + " and " + std::to_string(c.buckets) +
                " buckets of positions, which is no T5");
  c.head_width = inner / c.heads;
  if (!source.contains(gate)) source.fail("is a T5 without gates; version 1.1 is expected");
  c.hidden = source.size(gate, 0, 2);
  c.layers = source.count("encoder.block.");
  return c;
}

}  // namespace

T5Config read_t5_config(const std::filesystem::path& path) {
  if (file_exists(path)) return config_of(TensorSource(path, Network::t5));
  const JsonFile json(path / "config.json");
  T5Config c;
  c.width = json.integer_from("d_model", 1);
  c.head_width = json.integer_from("d_kv", 1);
  c.heads = json.integer_from("num_heads", 1);
  c.hidden = json.integer_from("d_ff", 1);
  c.layers = json.integer_from("num_layers", 1);
  // From here on transformers' defaults, which files may leave out.
  c.vocabulary = json.integer("vocab_size", c.vocabulary);
  c.buckets = json.integer("relative_attention_num_buckets", c.buckets);
  c.max_distance = json.integer("relative_attention_max_distance", c.max_distance);
  c.eps = json.number("layer_norm_epsilon", c.eps);
  if (c.vocabulary < 1) json.fail("vocab_size", "should be at least 1");
  if (c.buckets < 4 || c.buckets % 4 != 0)
    json.fail("relative_attention_num_buckets", "should be a multiple of 4");
  if (c.max_distance <= c.buckets / 4)
    json.fail("relative_attention_max_distance", "should be above a quarter of the buckets");
  if (!(c.eps > 0)) json.fail("layer_norm_epsilon", "should be above 0");
  if (json.text("feed_forward_proj", "relu") != "gated-gelu")
    json.fail("feed_forward_proj", "should be gated-gelu");
  return c;
}

}  // namespace fluxlora
