// SPDX-License-Identifier: Apache-2.0
#include "export/lora_names.h"

#include <algorithm>
#include <utility>

namespace fluxlora::exporting {
namespace {

struct Prefix {
  std::string_view text;
  Network network;
};

/// Longer ones before those that they begin with.
constexpr Prefix kPrefixes[] = {
    {"base_model.model.", Network::transformer},
    {"model.diffusion_model.", Network::transformer},
    {"diffusion_model.", Network::transformer},
    {"lora_transformer.", Network::transformer},
    {"lora_transformer_", Network::transformer},
    {"transformer.", Network::transformer},
    {"lora_unet_", Network::transformer},
    {"lycoris_", Network::transformer},
    {"text_encoders.clip_l.transformer.", Network::clip},
    {"text_encoders.t5xxl.transformer.", Network::t5},
    {"text_encoder_2.", Network::t5},
    {"text_encoder.", Network::clip},
    {"lora_te1_", Network::clip},
    {"lora_te1.", Network::clip},
    {"lora_te2_", Network::t5},
    {"lora_te2.", Network::t5},
    {"lora_te3_", Network::t5},
    {"lora_te_", Network::clip},
    {"lora_clip_l.", Network::clip},
    {"clip_l.", Network::clip},
    {"lora_t5.", Network::t5},
    {"t5.", Network::t5},
    {"", Network::transformer},
};

struct Ending {
  std::string_view text;
  Piece piece;
};

/// Longer ones before those that they end with. `.down.weight` is XLabs'.
constexpr Ending kEndings[] = {
    {".lora_A.default.weight", Piece::a},
    {".lora_B.default.weight", Piece::b},
    {".lora_A.weight", Piece::a},
    {".lora_B.weight", Piece::b},
    {".lora_A", Piece::a},
    {".lora_B", Piece::b},
    {".lora_down.weight", Piece::a},
    {".lora_up.weight", Piece::b},
    {".lora_linear_layer.down.weight", Piece::a},
    {".lora_linear_layer.up.weight", Piece::b},
    {".lora.down.weight", Piece::a},
    {".lora.up.weight", Piece::b},
    {"_lora.down.weight", Piece::a},
    {"_lora.up.weight", Piece::b},
    {".down.weight", Piece::a},
    {".up.weight", Piece::b},
    {".alpha", Piece::alpha},
    {".dora_scale", Piece::magnitude},
    {".lora_magnitude_vector.default.weight", Piece::magnitude},
    {".lora_magnitude_vector.weight", Piece::magnitude},
    {".lora_magnitude_vector", Piece::magnitude},
    {".lokr_w1", Piece::w1},
    {".lokr_w1_a", Piece::w1_a},
    {".lokr_w1_b", Piece::w1_b},
    {".lokr_w2", Piece::w2},
    {".lokr_w2_a", Piece::w2_a},
    {".lokr_w2_b", Piece::w2_b},
};

std::string underscored(std::string name) {
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// A name with block 0 in the place of its own, and the number that stood there.
struct Numbered {
  std::string pattern, number;
};

/// The number is what follows the first "block", "blocks" or "layers".
Numbered without_number(std::string_view name) {
  for (size_t i = 0; i < name.size(); ++i) {
    if (!is_digit(name[i])) continue;
    size_t end = i;
    while (end < name.size() && is_digit(name[end])) ++end;
    const std::string_view before = name.substr(0, i);
    const bool counts = before.ends_with("blocks.") || before.ends_with("blocks_") ||
                        before.ends_with("block.") || before.ends_with("block_") ||
                        before.ends_with("layers.") || before.ends_with("layers_");
    const bool canonical = end - i <= 4 && (end - i == 1 || name[i] != '0');
    if (!counts || !canonical) break;
    return {std::string(before) + "0" + std::string(name.substr(end)),
            std::string(name.substr(i, end - i))};
  }
  return {std::string(name), ""};
}

/// The inverse, for a name of block 0.
std::string with_number(const std::string& pattern, const std::string& number) {
  const size_t at = pattern.find_first_of("0123456789");
  return number.empty() || at == std::string::npos
             ? pattern
             : pattern.substr(0, at) + number + pattern.substr(at + 1);
}

/// XLabs' processors, and the rows of linear1 that some call linear1_qkv, all of block 0.
struct OtherName {
  const char *name, *layer;
  size_t count;  // of parts, from the first on; 0: all
};
constexpr OtherName kOtherNames[] = {
    {"double_blocks.0.processor.qkv_lora1", "double_blocks.0.img_attn.qkv", 0},
    {"double_blocks.0.processor.qkv_lora2", "double_blocks.0.txt_attn.qkv", 0},
    {"double_blocks.0.processor.proj_lora1", "double_blocks.0.img_attn.proj", 0},
    {"double_blocks.0.processor.proj_lora2", "double_blocks.0.txt_attn.proj", 0},
    {"single_blocks.0.processor.qkv_lora", "single_blocks.0.linear1", 3},
    {"single_blocks.0.processor.proj_lora", "single_blocks.0.linear2", 0},
    {"single_blocks.0.linear1_qkv", "single_blocks.0.linear1", 3},
    {"img_in.proj", "img_in", 0},
};

}  // namespace

int64_t Place::rows() const {
  int64_t rows = 0;
  for (size_t i = first; i < first + count; ++i) rows += layer.parts[i].rows;
  return rows;
}

LoraNames::LoraNames(const flux::Config& sizes) {
  flux::Config one = sizes;
  one.depth = one.depth_single = 1;
  one.guidance_embed = true;
  layers_ = flux::linear_names(one);
  for (size_t i = 0; i < layers_.size(); ++i) add_transformer(i);
  add_text_encoders();
}

void LoraNames::add(std::string name, const Meaning& meaning) {
  meanings_[underscored(name)] = meaning;
  meanings_[std::move(name)] = meaning;
}

void LoraNames::add_transformer(size_t i) {
  const flux::LinearName& layer = layers_[i];
  const size_t parts = layer.parts.size();
  add(layer.bfl, {Network::transformer, i, 0, parts, false});
  for (size_t p = 0; p < parts; ++p) {
    add(layer.parts[p].module, {Network::transformer, i, p, 1, layer.swapped_halves});
    if (parts > 1) add(layer.bfl + "." + std::to_string(p), {Network::transformer, i, p, 1, false});
  }
  for (const OtherName& other : kOtherNames)
    if (layer.bfl == other.layer)
      add(other.name, {Network::transformer, i, 0, other.count ? other.count : parts, false});
}

void LoraNames::add_text_encoders() {
  const auto add_layer = [&](Network network, const std::string& name, const std::string& alias) {
    layers_.push_back({name, 0, 0, {{name, 0, 0}}, false});
    const Meaning meaning{network, layers_.size() - 1, 0, 1, false};
    add(name, meaning);
    if (!alias.empty()) add(alias, meaning);
  };
  for (const char* module : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                             "self_attn.out_proj", "mlp.fc1", "mlp.fc2"}) {
    const std::string name = std::string("encoder.layers.0.") + module;
    add_layer(Network::clip, "text_model." + name, name);
  }
  for (const char* module :
       {"layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v",
        "layer.0.SelfAttention.o", "layer.1.DenseReluDense.wi_0", "layer.1.DenseReluDense.wi_1",
        "layer.1.DenseReluDense.wo"})
    add_layer(Network::t5, std::string("encoder.block.0.") + module, "");
}

std::optional<Place> LoraNames::find(std::string_view stem) const {
  for (const Prefix& prefix : kPrefixes) {
    if (!stem.starts_with(prefix.text)) continue;
    const Numbered name = without_number(stem.substr(prefix.text.size()));
    const auto found = meanings_.find(name.pattern);
    if (found == meanings_.end() || found->second.network != prefix.network) continue;
    const Meaning& meaning = found->second;
    Place place{prefix.network, layers_[meaning.layer], meaning.first, meaning.count,
                meaning.swapped};
    place.layer.bfl = with_number(place.layer.bfl, name.number);
    for (flux::DiffusersPart& part : place.layer.parts)
      part.module = with_number(part.module, name.number);
    return place;
  }
  return std::nullopt;
}

std::optional<StemAndPiece> split_key(std::string_view key) {
  // XLabs' "processor.qkv_lora" ends as others' endings begin.
  const bool processor = key.find(".processor.") != std::string_view::npos;
  for (const Ending& ending : kEndings)
    if (key.size() > ending.text.size() && key.ends_with(ending.text) &&
        !(processor && ending.text.starts_with("_lora")))
      return StemAndPiece{std::string(key.substr(0, key.size() - ending.text.size())),
                          ending.piece};
  return std::nullopt;
}

}  // namespace fluxlora::exporting
