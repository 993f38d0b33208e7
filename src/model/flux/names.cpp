// SPDX-License-Identifier: Apache-2.0
#include "model/flux/names.h"

namespace fluxlora::flux {
namespace {

/// Collects the table; `add` splits the rows evenly over the modules unless `rows` says otherwise.
class Table {
 public:
  std::vector<LinearName> rows;

  void add(const std::string& bfl, int64_t out, int64_t in, const std::vector<std::string>& modules,
           std::vector<int64_t> sizes = {}) {
    LinearName name{bfl, out, in, {}, false};
    int64_t row0 = 0;
    for (size_t i = 0; i < modules.size(); ++i) {
      const int64_t count = sizes.empty() ? out / static_cast<int64_t>(modules.size()) : sizes[i];
      name.parts.push_back({modules[i], row0, count});
      row0 += count;
    }
    rows.push_back(std::move(name));
  }

  void add_embedder(const std::string& bfl, const std::string& diffusers, int64_t D, int64_t in) {
    add(bfl + ".in_layer", D, in, {diffusers + ".linear_1"});
    add(bfl + ".out_layer", D, D, {diffusers + ".linear_2"});
  }
};

void add_double_block(Table& table, const Config& c, int64_t i) {
  const int64_t D = c.D(), F = c.F();
  const std::string bfl = "double_blocks." + std::to_string(i) + ".";
  const std::string dif = "transformer_blocks." + std::to_string(i) + ".";
  const std::string attn = dif + "attn.";
  table.add(bfl + "img_mod.lin", 6 * D, D, {dif + "norm1.linear"});
  table.add(bfl + "img_attn.qkv", 3 * D, D, {attn + "to_q", attn + "to_k", attn + "to_v"});
  table.add(bfl + "img_attn.proj", D, D, {attn + "to_out.0"});
  table.add(bfl + "img_mlp.0", F, D, {dif + "ff.net.0.proj"});
  table.add(bfl + "img_mlp.2", D, F, {dif + "ff.net.2"});
  table.add(bfl + "txt_mod.lin", 6 * D, D, {dif + "norm1_context.linear"});
  table.add(bfl + "txt_attn.qkv", 3 * D, D,
            {attn + "add_q_proj", attn + "add_k_proj", attn + "add_v_proj"});
  table.add(bfl + "txt_attn.proj", D, D, {attn + "to_add_out"});
  table.add(bfl + "txt_mlp.0", F, D, {dif + "ff_context.net.0.proj"});
  table.add(bfl + "txt_mlp.2", D, F, {dif + "ff_context.net.2"});
}

void add_single_block(Table& table, const Config& c, int64_t i) {
  const int64_t D = c.D(), F = c.F();
  const std::string bfl = "single_blocks." + std::to_string(i) + ".";
  const std::string dif = "single_transformer_blocks." + std::to_string(i) + ".";
  table.add(bfl + "linear1", 3 * D + F, D,
            {dif + "attn.to_q", dif + "attn.to_k", dif + "attn.to_v", dif + "proj_mlp"},
            {D, D, D, F});
  table.add(bfl + "linear2", D, D + F, {dif + "proj_out"});
  table.add(bfl + "modulation.lin", 3 * D, D, {dif + "norm.linear"});
}

}  // namespace

std::vector<LinearName> linear_names(const Config& c) {
  const int64_t D = c.D();
  const std::string embed = "time_text_embed.";
  Table table;
  table.add("img_in", D, c.in_channels, {"x_embedder"});
  table.add("txt_in", D, c.context_in, {"context_embedder"});
  table.add_embedder("time_in", embed + "timestep_embedder", D, 256);
  table.add_embedder("vector_in", embed + "text_embedder", D, c.vec_in);
  if (c.guidance_embed) table.add_embedder("guidance_in", embed + "guidance_embedder", D, 256);
  for (int64_t i = 0; i < c.depth; ++i) add_double_block(table, c, i);
  for (int64_t i = 0; i < c.depth_single; ++i) add_single_block(table, c, i);
  table.add("final_layer.adaLN_modulation.1", 2 * D, D, {"norm_out.linear"});
  table.rows.back().swapped_halves = true;
  table.add("final_layer.linear", c.in_channels, D, {"proj_out"});
  return table.rows;
}

std::vector<NormName> norm_names(const Config& c) {
  std::vector<NormName> names;
  for (int64_t i = 0; i < c.depth; ++i) {
    const std::string bfl = "double_blocks." + std::to_string(i) + ".";
    const std::string dif = "transformer_blocks." + std::to_string(i) + ".attn.";
    names.push_back({bfl + "img_attn.norm.query_norm", dif + "norm_q"});
    names.push_back({bfl + "img_attn.norm.key_norm", dif + "norm_k"});
    names.push_back({bfl + "txt_attn.norm.query_norm", dif + "norm_added_q"});
    names.push_back({bfl + "txt_attn.norm.key_norm", dif + "norm_added_k"});
  }
  for (int64_t i = 0; i < c.depth_single; ++i) {
    const std::string bfl = "single_blocks." + std::to_string(i) + ".";
    const std::string dif = "single_transformer_blocks." + std::to_string(i) + ".attn.";
    names.push_back({bfl + "norm.query_norm", dif + "norm_q"});
    names.push_back({bfl + "norm.key_norm", dif + "norm_k"});
  }
  return names;
}

NameTable diffusers_table(const Config& config) {
  NameTable table;
  for (const LinearName& name : linear_names(config))
    for (const char* suffix : {".weight", ".bias"}) {
      std::vector<StoredRows>& rows = table[name.bfl + suffix];
      for (const DiffusersPart& part : name.parts) {
        const std::string stored = part.module + suffix;
        if (name.swapped_halves) {
          const int64_t half = part.rows / 2;
          rows.push_back({stored, 0, half, half});
          rows.push_back({stored, half, half, 0});
        } else {
          rows.push_back({stored, part.row0, part.rows, 0});
        }
      }
    }
  for (const NormName& norm : norm_names(config))
    table[norm.bfl + ".scale"] = {{norm.diffusers + ".weight", 0, config.K, 0}};
  return table;
}

bool has_diffusers_names(const TensorSource& source) {
  return source.contains("x_embedder.weight");
}

}  // namespace fluxlora::flux
