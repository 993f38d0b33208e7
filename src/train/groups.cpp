// SPDX-License-Identifier: Apache-2.0
#include "train/groups.h"

#include <charconv>
#include <cmath>

#include "base/error.h"

namespace fluxlora::train {
namespace {

struct Rate {
  std::string text, pattern;
  double factor = 1;
  bool used = false;
};

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

Rate parse(const std::string& text) {
  const size_t equals = text.rfind('=');
  Rate rate{text, trimmed(text.substr(0, equals))};
  const std::string number = equals == std::string::npos ? "" : trimmed(text.substr(equals + 1));
  const char* const end = number.data() + number.size();
  const auto [stop, error] = std::from_chars(number.data(), end, rate.factor);
  if (rate.pattern.empty() || number.empty() || error != std::errc() || stop != end ||
      !std::isfinite(rate.factor) || rate.factor < 0)
    throw bad_input("train.rates", "\"" + text + "\" is not PATTERN = NUMBER",
                    "write for example \"single_transformer_blocks.* = 0.5\"");
  return rate;
}

}  // namespace

std::vector<optim::Part> parameter_parts(const lora::AdapterSet& adapters,
                                         const TrainOptions& options) {
  std::vector<Rate> rates;
  for (const std::string& text : options.rates) rates.push_back(parse(text));
  std::vector<optim::Part> parts;
  for (const lora::Segment& s : adapters.segments()) {
    double rate = s.is_a ? 1 : options.b_ratio;
    for (Rate& r : rates) {
      if (!lora::fits(r.pattern, adapters.specs()[s.spec].module)) continue;
      r.used = true;
      rate *= r.factor;
    }
    parts.push_back({s.offset, s.rows, s.columns, rate});
  }
  for (const Rate& r : rates)
    if (!r.used)
      throw bad_input("train.rates", "\"" + r.pattern + "\" fits no trained layer",
                      "name modules as lora.targets does, or leave it out");
  return parts;
}

}  // namespace fluxlora::train
