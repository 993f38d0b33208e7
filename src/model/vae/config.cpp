// SPDX-License-Identifier: Apache-2.0
#include "model/vae/config.h"

#include <string>

#include <fmt/format.h>

#include "base/file.h"
#include "model/json_file.h"
#include "model/vae/names.h"

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

/// What the tensors say (flux-facts 4.1 to 4.3). Groups, scaling and shift leave no trace in them:
/// they are FLUX.1's.
VaeConfig config_of(const TensorSource& source) {
  const VaeNames names = vae_names(source);
  const auto block = [&](int64_t level, int64_t j) {
    return fmt::format(fmt::runtime(names.down_block), level, j) + ".conv1.weight";
  };
  VaeConfig c;
  while (source.contains(block(static_cast<int64_t>(c.widths.size()), 0)))
    c.widths.push_back(source.size(block(static_cast<int64_t>(c.widths.size()), 0), 0, 4));
  if (c.widths.empty() || c.widths.size() > 8) source.fail("has no level that its encoder begins");
  for (const int64_t width : c.widths)
    if (width % c.groups)
      source.fail("has a level of " + std::to_string(width) + " channels, no multiple of " +
                  std::to_string(c.groups));
  c.layers = 0;
  while (source.contains(block(0, c.layers))) ++c.layers;
  c.latent_channels = source.size("decoder.conv_in.weight", 1, 4);
  c.mid_attention = source.contains(
      fmt::format("{}.{}.weight", fmt::format(fmt::runtime(names.attention), "encoder"), names.q));
  c.quant_conv = source.contains("quant_conv.weight");
  c.post_quant_conv = source.contains("post_quant_conv.weight");
  c.scaling = 0.3611;
  c.shift = 0.1159;
  return c;
}

}  // namespace

VaeConfig read_vae_config(const std::filesystem::path& path) {
  if (file_exists(path)) return config_of(TensorSource(path, Network::vae));
  const JsonFile json(path / "config.json");
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
