// SPDX-License-Identifier: Apache-2.0
#include "model/clip/config.h"

#include "base/file.h"
#include "model/json_file.h"
#include "model/source.h"

namespace fluxlora {
namespace {

constexpr int64_t kHeadWidth = 64;  // of every CLIP text model

/// What the tensors say (flux-facts 5.1).
ClipConfig config_of(const TensorSource& source) {
  ClipConfig c;
  c.vocabulary = source.size("embeddings.token_embedding.weight", 0, 2);
  c.width = source.size("embeddings.token_embedding.weight", 1, 2);
  c.positions = source.size("embeddings.position_embedding.weight", 0, 2);
  c.layers = source.count("encoder.layers.");
  c.hidden = source.size("encoder.layers.0.mlp.fc1.weight", 0, 2);
  if (c.width % kHeadWidth != 0 || c.positions < 2)
    source.fail("is " + std::to_string(c.width) + " wide with " + std::to_string(c.positions) +
                " positions, not a CLIP text encoder that FLUX.1 reads");
  c.heads = c.width / kHeadWidth;
  c.eos_id = 2;  // the largest id ends the text, as in every CLIP vocabulary
  return c;
}

}  // namespace

ClipConfig read_clip_config(const std::filesystem::path& path) {
  if (file_exists(path)) return config_of(TensorSource(path, Network::clip));
  const JsonFile json(path / "config.json");
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
