// SPDX-License-Identifier: Apache-2.0
#include "model/clip/config.h"

#include "model/json_file.h"

namespace fluxlora {

ClipConfig read_clip_config(const std::filesystem::path& folder) {
  const JsonFile json(folder / "config.json");
  ClipConfig c;
  c.width = json.integer_from("hidden_size", 1);
  c.hidden = json.integer_from("intermediate_size", 1);
  c.layers = json.integer_from("num_hidden_layers", 1);
  c.heads = json.integer_from("num_attention_heads", 1);
  if (c.width % c.heads != 0)
    json.fail("hidden_size", "should be a multiple of num_attention_heads");
  // From here on transformers' defaults, which files may leave out.
  c.vocabulary = json.integer("vocab_size", c.vocabulary);
  c.positions = json.integer("max_position_embeddings", c.positions);
  c.eps = json.number("layer_norm_eps", c.eps);
  c.eos_id = json.integer("eos_token_id", c.eos_id);
  if (c.vocabulary < 1) json.fail("vocab_size", "should be at least 1");
  if (c.positions < 2) json.fail("max_position_embeddings", "should be at least 2");
  if (!(c.eps > 0)) json.fail("layer_norm_eps", "should be above 0");
  if (json.text("hidden_act", "quick_gelu") != "quick_gelu")
    json.fail("hidden_act", "should be quick_gelu");
  return c;
}

}  // namespace fluxlora
