// SPDX-License-Identifier: Apache-2.0
#include "model/t5/config.h"

#include "model/json_file.h"

namespace fluxlora {

T5Config read_t5_config(const std::filesystem::path& folder) {
  const JsonFile json(folder / "config.json");
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
