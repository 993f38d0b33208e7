// SPDX-License-Identifier: Apache-2.0
#include "model/flux/config.h"

#include "model/json_file.h"

namespace fluxlora::flux {

Config read_config(const std::filesystem::path& folder) {
  const JsonFile json(folder / "config.json");
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
