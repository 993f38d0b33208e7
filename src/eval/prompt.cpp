// SPDX-License-Identifier: Apache-2.0
#include "eval/prompt.h"

#include <optional>
#include <set>

#include <fmt/format.h>

#include "model/clip/text_model.h"
#include "model/precision.h"
#include "model/t5/encoder.h"
#include "ops/transfer.h"
#include "tokenizer/tokenizer.h"

namespace fluxlora::eval {
namespace {

constexpr const char* kStates = "states";

/// One text encoder with its tokenizer, in the form that the loop over prompts needs.
struct Encoder {
  std::string kind;  ///< of the cache's keys: "t5", "clip"
  std::string hash;
  int64_t places = 0;  ///< tokens of a prompt
  const Tokenizer* tokenizer = nullptr;
  std::function<HostTensor(const std::vector<int32_t>&)> encode;  ///< loads the network when called
};

/// What the states depend on beside the prompt. A GPU's bf16 is not a CPU's f32, and weights in
/// fewer bits are not the files'.
std::string encoder_hash(const Precision& precision, const std::filesystem::path& network,
                         const std::filesystem::path& tokenizer) {
  std::string hash = content_hash({network, tokenizer}) + hash_suffix(precision.act);
  if (precision.format != plain_format(precision.act))
    hash += std::string(" ") + word_for(precision.format);
  return hash;
}

std::string shortened(const std::string& prompt) {
  constexpr size_t kShown = 40;
  return prompt.size() <= kShown ? prompt : prompt.substr(0, kShown) + "...";
}

/// Calls put(prompt, states) for every prompt.
void encode_all(const Encoder& encoder, const std::set<std::string>& prompts,
                const PromptOptions& options,
                const std::function<void(const std::string&, HostTensor)>& put) {
  size_t done = 0;
  for (const std::string& prompt : prompts) {
    ++done;
    if (options.stop && options.stop()) return;
    const std::string key = text_key(encoder.kind, prompt, encoder.hash, encoder.places);
    std::optional<CacheEntry> entry;
    if (options.cache) entry = options.cache->load(key);
    if (!entry || !entry->contains(kStates)) {
      const int64_t places = encoder.tokenizer->places(prompt);
      if (options.note && places > encoder.places && encoder.kind == "t5")
        options.note(fmt::format("\"{}\" takes {} text tokens and is cut to {}", shortened(prompt),
                                 places, encoder.places));
      entry.emplace();
      entry->emplace(kStates, encoder.encode(encoder.tokenizer->encode(
                                  prompt, static_cast<int>(encoder.places))));
      if (options.cache) options.cache->store(key, *entry);
      if (options.progress)
        options.progress(
            fmt::format("encoding prompts ({}) {}/{}", encoder.kind, done, prompts.size()));
    }
    put(prompt, std::move(entry->at(kStates)));
  }
}

void encode_pooled(Device& device, const ModelFiles& model, const std::set<std::string>& prompts,
                   const PromptOptions& options, PromptBook& book) {
  const auto tokenizer = open_clip_tokenizer(model.clip_tokenizer);
  const Precision precision = text_precision("auto", device.is_host());
  std::optional<ClipText> clip;
  Encoder encoder{"clip",
                  encoder_hash(precision, model.clip, model.clip_tokenizer),
                  read_clip_config(model.clip).positions,
                  tokenizer.get(),
                  {}};
  encoder.encode = [&](const std::vector<int32_t>& ids) {
    if (!clip) {
      clip.emplace(device, model.clip, precision.act);
      clip->prepare(1, /*training=*/false);
    }
    const Tensor& pooled = clip->forward(ids);
    HostTensor host(DType::f32, {pooled.size()});
    download_as(device, host.view, pooled);
    return host;
  };
  encode_all(encoder, prompts, options, [&](const std::string& prompt, HostTensor states) {
    book[prompt].pooled = std::move(states);
    book[prompt].clip_ids = tokenizer->encode(prompt, static_cast<int>(encoder.places));
  });
}

void encode_states(Device& device, const ModelFiles& model, const std::set<std::string>& prompts,
                   const PromptOptions& options, PromptBook& book) {
  const auto tokenizer = open_t5_tokenizer(model.t5_tokenizer);
  const Precision precision = text_precision(options.precision, device.is_host());
  std::optional<T5Encoder> t5;
  Encoder encoder{"t5",
                  encoder_hash(precision, model.t5, model.t5_tokenizer),
                  options.text_tokens,
                  tokenizer.get(),
                  {}};
  encoder.encode = [&](const std::vector<int32_t>& ids) {
    if (!t5) {
      t5.emplace(device, model.t5, precision.act, precision.format);
      t5->prepare(1, options.text_tokens);
    }
    const Tensor& states = t5->forward(ids);
    HostTensor host(DType::f32, {states.dim(1), states.dim(2)});
    download_as(device, host.view, states);
    return host;
  };
  encode_all(encoder, prompts, options, [&](const std::string& prompt, HostTensor states) {
    book[prompt].txt = std::move(states);
  });
}

}  // namespace

std::string automatic_precision(const ModelFiles& model, int64_t text_tokens, bool on_host,
                                int64_t budget) {
  const T5Config config = model.t5.empty() ? T5Config{} : read_t5_config(model.t5);
  for (const std::string word : {"auto", "fp8"}) {
    const Precision precision = text_precision(word, on_host);
    if (budget == 0 ||
        T5Encoder::bytes(config, precision.act, precision.format, text_tokens) <= budget)
      return word;
  }
  return "nf4";
}

PromptBook encode_prompts(Device& device, const ModelFiles& model,
                          const std::vector<std::string>& prompts, const PromptOptions& options) {
  const std::set<std::string> distinct(prompts.begin(), prompts.end());
  PromptBook book;
  encode_pooled(device, model, distinct, options, book);
  encode_states(device, model, distinct, options, book);
  return book;
}

void encode_pooled_again(ClipText& clip, Device& device, PromptBook& book) {
  for (auto& [prompt, states] : book) {
    std::vector<int32_t> ids;
    for (int64_t b = 0; b < clip.batch(); ++b)
      ids.insert(ids.end(), states.clip_ids.begin(), states.clip_ids.end());
    download_as(device, states.pooled.view, clip.forward(ids).item(0));
  }
}

}  // namespace fluxlora::eval
