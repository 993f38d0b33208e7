// SPDX-License-Identifier: Apache-2.0
#include "train/encode.h"

#include <algorithm>
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
HostTensor encode_picture(Device& device, Vae& vae, const Example& example, bool mirrored) {
  const int64_t H = example.size.height, W = example.size.width, C = vae.latent_channels();
  const int64_t h = H / vae.factor(), w = W / vae.factor();
  HostTensor pixels(DType::f32, {H, W, 3}), latents(DType::f32, {h, w, C});
  pixels_to_model(pixels.view, load_pixels(example, mirrored));
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
HostTensor packed_mask(const Example& example, bool mirrored, int64_t h, int64_t w) {
  if (!example.mask) return {};
  HostTensor mask(DType::f32, {h, w}), packed(DType::f32, {1, h * w / 4, 4});
  load_mask(mask.view, example, mirrored);
  flow::pack(packed.view, mask.view.reshaped({1, h, w, 1}));
  return packed;
}

bool is_latents(const CacheEntry& entry, int64_t h, int64_t w, int64_t C) {
  const auto found = entry.find(kLatents);
  return found != entry.end() && found->second.view.dtype() == DType::f32 &&
         found->second.view.rank() == 3 && found->second.view.dim(0) == h &&
         found->second.view.dim(1) == w && found->second.view.dim(2) == C;
}

/// Latents through the cache; the VAE is loaded when the first is missing there.
class LatentMaker {
 public:
  LatentMaker(Device& device, const ModelFiles& model, Cache& cache)
      : device_(device),
        model_(model),
        cache_(cache),
        config_(read_vae_config(model.vae)),
        hash_(content_hash({model.vae}) + hash_suffix(encoder_dtype(device))) {}

  Latents make(const Example& example, bool mirrored) {
    const int64_t h = example.size.height / config_.factor();
    const int64_t w = example.size.width / config_.factor();
    const std::string key = latent_key(example, hash_, mirrored);
    std::optional<CacheEntry> entry = cache_.load(key);
    if (!entry || !is_latents(*entry, h, w, config_.latent_channels)) {
      if (!vae_) vae_ = std::make_unique<Vae>(device_, model_.vae, encoder_dtype(device_));
      entry.emplace();
      entry->emplace(kLatents, encode_picture(device_, *vae_, example, mirrored));
      cache_.store(key, *entry);
    }
    Latents latents = packed(entry->at(kLatents).view);
    latents.mask = packed_mask(example, mirrored, h, w);
    return latents;
  }

 private:
  Device& device_;
  const ModelFiles& model_;
  Cache& cache_;
  VaeConfig config_;
  std::string hash_;
  std::unique_ptr<Vae> vae_;
};

void encode_latents(Encoded& encoded, LatentMaker maker, const Dataset& dataset,
                    const EncodeHooks& hooks) {
  for (const Example& example : dataset.examples) {
    if (hooks.stop()) return;
    encoded.latents.push_back(maker.make(example, false));
    encoded.mirrored.push_back(example.flip ? maker.make(example, true) : Latents());
    hooks.progress(
        fmt::format("caching latents {}/{}", encoded.latents.size(), dataset.examples.size()));
  }
}

/// Whether some caption may be dropped.
bool drops_captions(const Dataset& dataset, double otherwise) {
  return std::any_of(dataset.examples.begin(), dataset.examples.end(),
                     [&](const Example& e) { return e.caption_dropout.value_or(otherwise) > 0; });
}

/// The captions whose pictures should stay the base model's, by example and caption.
std::vector<std::vector<std::string>> preserved_captions(const Dataset& dataset,
                                                         const RunOptions& options) {
  std::vector<std::vector<std::string>> all;
  if (options.train.preservation == 0) return all;
  for (const Example& example : dataset.examples) {
    const auto& own = options.dataset.folders[static_cast<size_t>(example.folder)].trigger;
    std::vector<std::string>& captions = all.emplace_back();
    for (const std::string& caption : example.captions)
      captions.push_back(without_trigger(caption, own ? *own : options.subject.trigger,
                                         options.train.preservation_class));
  }
  return all;
}

}  // namespace

Encoded encode(Device& device, const ModelFiles& model, const Dataset& dataset,
               const RunOptions& options, const EncodeHooks& hooks) {
  Encoded encoded;
  Cache cache(options.dataset.cache);
  encode_latents(encoded, LatentMaker(device, model, cache), dataset, hooks);

  std::vector<std::string> prompts;
  for (const Example& example : dataset.examples)
    prompts.insert(prompts.end(), example.captions.begin(), example.captions.end());
  const auto preserved = preserved_captions(dataset, options);
  for (const auto& captions : preserved)
    prompts.insert(prompts.end(), captions.begin(), captions.end());
  const bool drops = drops_captions(dataset, options.train.caption_dropout);
  if (drops) prompts.emplace_back();
  const bool samples = options.sample.every > 0;
  if (samples)
    prompts.insert(prompts.end(), options.sample.prompts.begin(), options.sample.prompts.end());
  const bool validates = options.validate.every > 0;
  if (validates)
    prompts.insert(prompts.end(), options.validate.prompts.begin(), options.validate.prompts.end());
  encoded.book = eval::encode_prompts(device, model, prompts,
                                      {options.model.text_tokens, options.model.text_precision,
                                       &cache, hooks.note, hooks.progress, hooks.stop});
  for (const std::string& line : cache.notes()) hooks.note(line);
  hooks.note(fmt::format("latents and text states: {} from the cache, {} made", cache.hits(),
                         cache.misses()));
  if (hooks.stop()) return encoded;

  const auto states_of = [&](const std::vector<std::string>& captions) {
    std::vector<const eval::PromptStates*> states;
    for (const std::string& caption : captions) states.push_back(&encoded.book.at(caption));
    return states;
  };
  for (const Example& example : dataset.examples)
    encoded.prompts.push_back(states_of(example.captions));
  for (const auto& captions : preserved) encoded.preserved.push_back(states_of(captions));
  if (drops) encoded.no_prompt = &encoded.book.at("");
  if (samples)
    for (const std::string& prompt : options.sample.prompts)
      encoded.samples.push_back(&encoded.book.at(prompt));
  if (validates)
    for (const std::string& prompt : options.validate.prompts)
      encoded.neutral.push_back(&encoded.book.at(prompt));
  return encoded;
}

}  // namespace fluxlora::train
