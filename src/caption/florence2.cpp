// SPDX-License-Identifier: Apache-2.0
#include "caption/florence2.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "caption/generate.h"
#include "caption/onnx_session.h"
#include "data/caption.h"
#include "data/resize.h"
#include "tokenizer/tokenizer.h"

namespace fluxlora::caption {
namespace {

namespace fs = std::filesystem;

constexpr int kLargestSide = 4096;
constexpr int64_t kMostTokens = 1000;  // the model has 1024 places

/// What the model was trained to be asked (Florence2Processor of transformers).
std::string question(const std::string& detail) {
  if (detail == "short") return "What does the image describe?";
  if (detail == "detailed") return "Describe in detail what is shown in the image.";
  if (detail == "long") return "Describe with a paragraph what is shown in the image.";
  throw bad_input("the captions' detail", fmt::format("\"{}\" is not known", detail),
                  "give short, detailed or long");
}

fs::path onnx_file(const fs::path& folder, const char* name) {
  const fs::path below = folder / "onnx" / name;
  return file_exists(below) ? below : folder / name;
}

nlohmann::json read_json(const fs::path& path) {
  nlohmann::json json = nlohmann::json::parse(read_text(path), nullptr, false);
  if (!json.is_object())
    throw bad_input(path.string(), "is not a JSON object", "copy or fetch the model again");
  return json;
}

/// How pixels become numbers: resize to a size, times a factor, minus mean, by deviation.
struct Preprocessing {
  Size size{768, 768};
  double factor = 1.0 / 255;
  std::array<double, 3> mean{}, deviation{};
};

Preprocessing read_preprocessing(const fs::path& path) {
  const nlohmann::json json = read_json(path);
  try {
    Preprocessing p;
    p.size = {json.at("size").at("width").get<int>(), json.at("size").at("height").get<int>()};
    p.factor = json.value("rescale_factor", p.factor);
    p.mean = json.at("image_mean").get<std::array<double, 3>>();
    p.deviation = json.at("image_std").get<std::array<double, 3>>();
    const bool sized = p.size.width > 0 && p.size.width <= kLargestSide && p.size.height > 0 &&
                       p.size.height <= kLargestSide;
    const bool scaled =
        std::all_of(p.deviation.begin(), p.deviation.end(), [](double v) { return v > 0; });
    if (sized && scaled) return p;
  } catch (const nlohmann::json::exception&) {
    // said below
  }
  throw bad_input(path.string(), "does not say size, image_mean and image_std as Florence-2's does",
                  "copy or fetch the model again");
}

GenerateOptions read_generation(const fs::path& path, const FlorenceOptions& options) {
  const nlohmann::json json = read_json(path);
  try {
    GenerateOptions g;
    g.num_beams = options.beams > 0 ? options.beams : json.value("num_beams", int64_t{1});
    g.max_tokens = options.max_tokens;
    g.start = json.at("decoder_start_token_id").get<int32_t>();
    g.end = json.at("eos_token_id").get<int32_t>();
    g.forced_first = json.value("forced_bos_token_id", -1);
    g.forced_last = json.value("forced_eos_token_id", -1);
    g.no_repeat_ngram = json.value("no_repeat_ngram_size", int64_t{0});
    g.length_penalty = json.value("length_penalty", 1.0);
    g.early_stopping = json.value("early_stopping", false);
    if (g.num_beams > 0 && g.num_beams <= 64 && g.no_repeat_ngram >= 0) return g;
  } catch (const nlohmann::json::exception&) {
    // said below
  }
  throw bad_input(path.string(), "does not say how text is generated",
                  "copy or fetch the model again");
}

/// The picture whole, its proportions lost, as the model was trained: (1, 3, H, W).
OnnxTensor pixel_values(const Picture& picture, const Preprocessing& p) {
  const Picture small = resize_cubic(picture, p.size);
  const size_t pixels = small.rgb.size() / 3;
  std::vector<float> values(small.rgb.size());
  for (size_t i = 0; i < pixels; ++i)
    for (size_t c = 0; c < 3; ++c)
      values[c * pixels + i] =
          static_cast<float>((small.rgb[3 * i + c] * p.factor - p.mean[c]) / p.deviation[c]);
  return {{1, 3, p.size.height, p.size.width}, std::move(values)};
}

class Florence2 final : public Captioner {
 public:
  Florence2(const fs::path& folder, const FlorenceOptions& options)
      : question_(question(options.detail)),
        preprocessing_(read_preprocessing(folder / "preprocessor_config.json")),
        generation_(read_generation(folder / "generation_config.json", options)),
        tokenizer_(open_bart_tokenizer(folder)),
        vision_(onnx_file(folder, "vision_encoder.onnx")),
        embed_(onnx_file(folder, "embed_tokens.onnx")),
        encoder_(onnx_file(folder, "encoder_model.onnx")),
        decoder_(onnx_file(folder, "decoder_model.onnx")) {}

  std::string describe(const Picture& picture) override {
    const OnnxTensor states = look(picture);
    const std::vector<int32_t> ids =
        generate(generation_, [&](const auto& sequences) { return next(states, sequences); });
    log_debug(fmt::format("tokens {}", fmt::join(ids, " ")));
    return collapse_spaces(tokenizer_->text(ids));
  }

 private:
  /// What the encoder makes of a picture and the question: (1, S, D).
  OnnxTensor look(const Picture& picture) {
    OnnxTensors in;
    in["pixel_values"] = pixel_values(picture, preprocessing_);
    const OnnxTensor image = output(vision_, in, "image_features", 3);
    const auto places = static_cast<int>(tokenizer_->places(question_));
    const OnnxTensor asked = embeddings({tokenizer_->encode(question_, places)});
    if (image.shape[2] != asked.shape[2])
      throw bad_input(embed_.path().string(), "belongs to another model than vision_encoder.onnx",
                      "take all files from the same model");
    const int64_t S = image.shape[1] + asked.shape[1];
    std::vector<float> both = image.floats();
    both.insert(both.end(), asked.floats().begin(), asked.floats().end());
    OnnxTensors read;
    read["inputs_embeds"] = {{1, S, image.shape[2]}, std::move(both)};
    read["attention_mask"] = {{1, S}, std::vector<int64_t>(static_cast<size_t>(S), 1)};
    return output(encoder_, read, "last_hidden_state", 3);
  }

  OnnxTensor output(OnnxSession& session, const OnnxTensors& in, const char* name, size_t rank) {
    OnnxTensors out = session.run(in, {name});
    const auto found = out.find(name);
    if (found == out.end() || found->second.shape.size() != rank ||
        !std::holds_alternative<std::vector<float>>(found->second.values))
      throw bad_input(session.path().string(), fmt::format("gives no {}", name),
                      "give the ONNX files of Florence-2");
    return std::move(found->second);
  }

  /// (N, T, D) of N sequences of T tokens.
  OnnxTensor embeddings(const std::vector<std::vector<int32_t>>& sequences) {
    std::vector<int64_t> ids;
    for (const auto& sequence : sequences) ids.insert(ids.end(), sequence.begin(), sequence.end());
    OnnxTensors in;
    in["input_ids"] = {
        {static_cast<int64_t>(sequences.size()), static_cast<int64_t>(sequences.front().size())},
        std::move(ids)};
    return output(embed_, in, "inputs_embeds", 3);
  }

  /// Logits (N, vocabulary) behind each sequence.
  std::vector<float> next(const OnnxTensor& states,
                          const std::vector<std::vector<int32_t>>& sequences) {
    const auto N = static_cast<int64_t>(sequences.size());
    const int64_t S = states.shape[1], D = states.shape[2];
    std::vector<float> repeated;
    for (int64_t n = 0; n < N; ++n)
      repeated.insert(repeated.end(), states.floats().begin(), states.floats().end());
    OnnxTensors in;
    in["encoder_hidden_states"] = {{N, S, D}, std::move(repeated)};
    in["encoder_attention_mask"] = {{N, S}, std::vector<int64_t>(static_cast<size_t>(N * S), 1)};
    in["inputs_embeds"] = embeddings(sequences);
    const OnnxTensor logits = output(decoder_, in, "logits", 3);
    const int64_t T = logits.shape[1], V = logits.shape[2];
    const GenerateOptions& g = generation_;
    if (std::min(g.start, g.end) < 0 ||
        std::max({g.start, g.end, g.forced_first, g.forced_last}) >= V)
      throw bad_input(decoder_.path().string(),
                      fmt::format("knows {} tokens, fewer than generation_config.json names", V),
                      "take all files from the same model");
    std::vector<float> last;
    for (int64_t n = 0; n < N; ++n) {
      const auto begin = logits.floats().begin() + static_cast<ptrdiff_t>((n * T + T - 1) * V);
      last.insert(last.end(), begin, begin + static_cast<ptrdiff_t>(V));
    }
    return last;
  }

  std::string question_;
  Preprocessing preprocessing_;
  GenerateOptions generation_;
  std::unique_ptr<WritingTokenizer> tokenizer_;
  OnnxSession vision_, embed_, encoder_, decoder_;
};

}  // namespace

std::unique_ptr<Captioner> open_florence2(const fs::path& folder, const FlorenceOptions& options) {
  if (options.max_tokens < 2 || options.max_tokens > kMostTokens)
    throw bad_input("the captions' length", fmt::format("is {} tokens", options.max_tokens),
                    fmt::format("give 2 to {}", kMostTokens));
  return std::make_unique<Florence2>(folder, options);
}

}  // namespace fluxlora::caption
