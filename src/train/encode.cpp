// SPDX-License-Identifier: Apache-2.0
#include "train/encode.h"

#include <memory>

#include <fmt/format.h>

#include "base/error.h"
#include "data/cache.h"
#include "data/caption.h"
#include "flow/pack.h"
#include "model/precision.h"
#include "model/vae/vae.h"
#include "ops/transfer.h"

namespace fluxlora::train {
namespace {

constexpr const char* kLatents = "latents";

/// latents (h, w, C): the mean of the posterior, in the model's scaling.
HostTensor encode_picture(Device& device, Vae& vae, const Example& example) {
  const int64_t H = example.size.height, W = example.size.width, C = vae.latent_channels();
  const int64_t h = H / vae.factor(), w = W / vae.factor();
  HostTensor pixels(DType::f32, {H, W, 3}), latents(DType::f32, {h, w, C});
  pixels_to_model(pixels.view, load_pixels(example));
  vae.prepare(1, H, W);
  const DType act = encoder_dtype(device);
  const Buffer pixel_memory = device.allocate(pixels.view.size() * dtype_size(act));
  const Buffer latent_memory = device.allocate(latents.view.size() * dtype_size(act));
  const Tensor source(act, {1, H, W, 3}, pixel_memory.data());
  const Tensor result(act, {1, h, w, C}, latent_memory.data());
  upload_as(device, source, pixels.view);
  vae.encode(result, source);
  download_as(device, latents.view, result);
  return latents;
}

Latents packed(const Tensor& latents) {
  const int64_t h = latents.dim(0), w = latents.dim(1), C = latents.dim(2);
  Latents result{h, w, HostTensor(DType::f32, {1, h * w / 4, 4 * C}), {}};
  flow::pack(result.tokens.view, latents.reshaped({1, h, w, C}));
  return result;
}

/// (1, N, 4); empty without a mask.
HostTensor packed_mask(const Example& example, int64_t h, int64_t w) {
  if (!example.mask) return {};
  HostTensor mask(DType::f32, {h, w}), packed(DType::f32, {1, h * w / 4, 4});
  load_mask(mask.view, example);
  flow::pack(packed.view, mask.view.reshaped({1, h, w, 1}));
  return packed;
}

bool is_latents(const CacheEntry& entry, int64_t h, int64_t w, int64_t C) {
  const auto found = entry.find(kLatents);
  return found != entry.end() && found->second.view.dtype() == DType::f32 &&
         found->second.view.rank() == 3 && found->second.view.dim(0) == h &&
         found->second.view.dim(1) == w && found->second.view.dim(2) == C;
}

std::vector<Latents> encode_latents(Device& device, const ModelFiles& model, const Dataset& dataset,
                                    Cache& cache, const EncodeHooks& hooks) {
  const VaeConfig config = read_vae_config(model.vae);
  const std::string hash = content_hash({model.vae}) + hash_suffix(encoder_dtype(device));
  std::unique_ptr<Vae> vae;
  std::vector<Latents> all;
  for (const Example& example : dataset.examples) {
    if (hooks.stop()) return all;
    const int64_t h = example.size.height / config.factor();
    const int64_t w = example.size.width / config.factor();
    const std::string key = latent_key(example, hash);
    std::optional<CacheEntry> entry = cache.load(key);
    if (!entry || !is_latents(*entry, h, w, config.latent_channels)) {
      if (!vae) vae = std::make_unique<Vae>(device, model.vae, encoder_dtype(device));
      entry.emplace();
      entry->emplace(kLatents, encode_picture(device, *vae, example));
      cache.store(key, *entry);
      hooks.progress(fmt::format("caching latents {}/{}", all.size() + 1, dataset.examples.size()));
    }
    all.push_back(packed(entry->at(kLatents).view));
    all.back().mask = packed_mask(example, h, w);
  }
  return all;
}

/// The captions whose pictures should stay the base model's, by example.
std::vector<std::string> preserved_captions(const Dataset& dataset, const RunOptions& options) {
  std::vector<std::string> captions;
  if (options.train.preservation == 0) return captions;
  for (const Example& example : dataset.examples) {
    const auto& own = options.dataset.folders[static_cast<size_t>(example.folder)].trigger;
    captions.push_back(without_trigger(example.caption, own ? *own : options.subject.trigger,
                                       options.train.preservation_class));
  }
  return captions;
}

}  // namespace

Encoded encode(Device& device, const ModelFiles& model, const Dataset& dataset,
               const RunOptions& options, const EncodeHooks& hooks) {
  Encoded encoded;
  Cache cache(options.dataset.cache);
  encoded.latents = encode_latents(device, model, dataset, cache, hooks);

  std::vector<std::string> prompts;
  for (const Example& example : dataset.examples) prompts.push_back(example.caption);
  const std::vector<std::string> preserved = preserved_captions(dataset, options);
  prompts.insert(prompts.end(), preserved.begin(), preserved.end());
  if (options.train.caption_dropout > 0) prompts.emplace_back();
  const bool samples = options.sample.every > 0;
  if (samples)
    prompts.insert(prompts.end(), options.sample.prompts.begin(), options.sample.prompts.end());
  encoded.book = eval::encode_prompts(
      device, model, prompts,
      {options.model.text_tokens, &cache, hooks.note, hooks.progress, hooks.stop});
  for (const std::string& line : cache.notes()) hooks.note(line);
  hooks.note(fmt::format("latents and text states: {} from the cache, {} made", cache.hits(),
                         cache.misses()));
  if (hooks.stop()) return encoded;

  for (const Example& example : dataset.examples)
    encoded.prompts.push_back(&encoded.book.at(example.caption));
  for (const std::string& caption : preserved)
    encoded.preserved.push_back(&encoded.book.at(caption));
  if (options.train.caption_dropout > 0) encoded.no_prompt = &encoded.book.at("");
  if (samples)
    for (const std::string& prompt : options.sample.prompts)
      encoded.samples.push_back(&encoded.book.at(prompt));
  return encoded;
}

}  // namespace fluxlora::train
