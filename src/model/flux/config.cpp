// SPDX-License-Identifier: Apache-2.0
#include "model/flux/config.h"

#include <algorithm>
#include <string>

#include "base/file.h"
#include "model/flux/names.h"
#include "model/json_file.h"

namespace fluxlora::flux {
namespace {

/// Models of the same family whose files resemble FLUX.1's.
void refuse_relatives(const TensorSource& source) {
  if (source.contains("double_stream_modulation_img.lin.weight"))
    source.fail("is a FLUX.2 model; FLUX.1 is supported");
  if (source.contains("distilled_guidance_layer.in_proj.weight"))
    source.fail("is a Chroma model; FLUX.1 is supported");
}

/// What the tensors say (flux-facts 2.1, 2.2). The rotary axes leave no trace in them: they are
/// those of every FLUX.1 model.
Config config_of(const TensorSource& source) {
  refuse_relatives(source);
  const bool diffusers = has_diffusers_names(source);
  const auto name = [&](const char* bfl, const char* theirs) {
    return std::string(diffusers ? theirs : bfl);
  };
  const std::string img_in = name("img_in.weight", "x_embedder.weight");
  Config c;
  c.depth = source.count(name("double_blocks.", "transformer_blocks."));
  c.depth_single = source.count(name("single_blocks.", "single_transformer_blocks."));
  c.in_channels = source.size(img_in, 1, 2);
  const int64_t D = source.size(img_in, 0, 2);
  c.context_in = source.size(name("txt_in.weight", "context_embedder.weight"), 1, 2);
  c.vec_in = source.size(
      name("vector_in.in_layer.weight", "time_text_embed.text_embedder.linear_1.weight"), 1, 2);
  c.guidance_embed = source.contains(
      name("guidance_in.in_layer.weight", "time_text_embed.guidance_embedder.linear_1.weight"));
  const int64_t written = source.size(name("final_layer.linear.weight", "proj_out.weight"), 0, 2);
  if (written != c.in_channels)
    source.fail("reads " + std::to_string(c.in_channels) + " channels and writes " +
                std::to_string(written) + ", as FLUX.1 Fill and the like do");
  Config first_block = c;
  first_block.depth = std::min<int64_t>(c.depth, 1);
  first_block.depth_single = std::min<int64_t>(c.depth_single, 1);
  const NormName norm = norm_names(first_block).at(0);
  c.K = source.size(diffusers ? norm.diffusers + ".weight" : norm.bfl + ".scale", 0, 1);
  if (c.K != 128)
    source.fail("has attention heads of width " + std::to_string(c.K) +
                "; without a config.json 128 is expected");
  if (D % c.K) source.fail("has a width of " + std::to_string(D) + ", no multiple of its heads'");
  c.H = D / c.K;
  return c;
}

}  // namespace

Config read_config(const std::filesystem::path& path) {
  if (file_exists(path)) return config_of(TensorSource(path, Network::transformer));
  const JsonFile json(path / "config.json");
  if (json.text("_class_name") != "FluxTransformer2DModel")
    json.fail("_class_name", "should be FluxTransformer2DModel");
  Config c;
  c.in_channels = json.integer_from("in_channels", 4);
  if (json.integer("out_channels", c.in_channels) != c.in_channels)
    json.fail("out_channels", "differs from in_channels, which only FLUX.1 Fill and the like do");
  c.vec_in = json.integer_from("pooled_projection_dim", 1);
  c.context_in = json.integer_from("joint_attention_dim", 1);
  c.H = json.integer_from("num_attention_heads", 1);
  c.K = json.integer_from("attention_head_dim", 2);
  c.depth = json.integer_from("num_layers", 0);
  c.depth_single = json.integer_from("num_single_layers", 0);
  c.guidance_embed = json.boolean("guidance_embeds", false);
  if (json.integer("patch_size", 1) != 1) json.fail("patch_size", "should be 1");
  if (json.has("axes_dims_rope")) {
    const std::vector<int64_t> axes = json.integers("axes_dims_rope");
    if (axes.size() != 3) json.fail("axes_dims_rope", "should have three numbers");
    for (size_t i = 0; i < 3; ++i) c.axes_dim[i] = axes[i];
  }
  int64_t sum = 0;
  for (int64_t axis : c.axes_dim) {
    if (axis < 0 || axis % 2) json.fail("axes_dims_rope", "should have even numbers");
    sum += axis;
  }
  if (sum != c.K) json.fail("axes_dims_rope", "should add up to attention_head_dim");
  if (c.depth + c.depth_single < 1) json.fail("num_layers", "leaves the model without a block");
  return c;
}

}  // namespace fluxlora::flux
