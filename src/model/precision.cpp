// SPDX-License-Identifier: Apache-2.0
#include "model/precision.h"

#include "base/error.h"

namespace fluxlora {

namespace {

Precision precision_of(const char* key, const std::string& word, bool on_host) {
  const DType own = on_host ? DType::f32 : DType::bf16;
  if (word == "auto") return {own, plain_format(own)};
  if (word == "f32") return {DType::f32, WeightFormat::f32};
  if (word == "bf16") return {own, WeightFormat::bf16};
  if (word == "fp8") return {own, WeightFormat::fp8};
  if (word == "int8") return {own, WeightFormat::int8};
  if (word == "nf4") return {own, WeightFormat::nf4};
  throw bad_input(key, "\"" + word + "\" is not a format of weights",
                  "use auto, f32, bf16, fp8, int8 or nf4");
}

}  // namespace

Precision transformer_precision(const std::string& word, bool on_host) {
  return precision_of("model.precision", word, on_host);
}

Precision text_precision(const std::string& word, bool on_host) {
  return precision_of("model.text_precision", word, on_host);
}

const char* word_for(WeightFormat format) {
  constexpr const char* words[] = {"f64", "f32", "bf16", "fp8", "int8", "nf4"};
  return words[static_cast<size_t>(format)];
}

DType encoder_dtype(const Device& device) {
  return device.is_host() ? DType::f32 : DType::bf16;
}

}  // namespace fluxlora
