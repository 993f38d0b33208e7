// SPDX-License-Identifier: Apache-2.0
#include "model/vae/config.h"

#include <string>

#include "model/json_file.h"

namespace fluxlora {
namespace {

/// Every level must be of the one kind that this VAE has.
void check_levels(const JsonFile& json, const std::string& key, const std::string& kind,
                  size_t count) {
  if (!json.has(key)) return;
  const auto kinds = json.texts(key);
  if (kinds.size() != count) json.fail(key, "should be as long as block_out_channels");
  for (const std::string& k : kinds)
    if (k != kind) json.fail(key, "should hold " + kind + " only");
}

}  // namespace

VaeConfig read_vae_config(const std::filesystem::path& folder) {
  const JsonFile json(folder / "config.json");
  if (json.text("_class_name", "AutoencoderKL") != "AutoencoderKL")
    json.fail("_class_name", "should be AutoencoderKL");
  VaeConfig c;
  c.widths = json.integers("block_out_channels");
  if (c.widths.empty() || c.widths.size() > 8)
    json.fail("block_out_channels", "should have one to eight numbers");
  check_levels(json, "down_block_types", "DownEncoderBlock2D", c.widths.size());
  check_levels(json, "up_block_types", "UpDecoderBlock2D", c.widths.size());
  if (json.integer("in_channels", 3) != 3) json.fail("in_channels", "should be 3");
  if (json.integer("out_channels", 3) != 3) json.fail("out_channels", "should be 3");
  if (json.text("act_fn", "silu") != "silu") json.fail("act_fn", "should be silu");
  c.latent_channels = json.integer_from("latent_channels", 1);
  c.layers = json.integer_from("layers_per_block", 1);
  c.groups = json.has("norm_num_groups") ? json.integer_from("norm_num_groups", 1) : 32;
  for (const int64_t width : c.widths)
    if (width < 1 || width % c.groups != 0)
      json.fail("block_out_channels", "should hold multiples of norm_num_groups");
  c.mid_attention = json.boolean("mid_block_add_attention", true);
  c.quant_conv = json.boolean("use_quant_conv", true);
  c.post_quant_conv = json.boolean("use_post_quant_conv", true);
  // diffusers' defaults, from before FLUX.
  c.scaling = json.number("scaling_factor", 0.18215);
  c.shift = json.number("shift_factor", 0);
  if (!(c.scaling > 0)) json.fail("scaling_factor", "should be above 0");
  return c;
}

}  // namespace fluxlora
