// SPDX-License-Identifier: Apache-2.0
#include "lora/targets.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>

#include "base/error.h"

namespace fluxlora::lora {
namespace {

bool contains(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

bool starts_with(const std::string& text, const std::string& piece) {
  return text.rfind(piece, 0) == 0;
}

/// A row range that can be named as a target: one diffusers module, or a whole fused layer.
struct Candidate {
  AdapterSpec spec;
  bool fused = false;  ///< named by BFL and made of several diffusers modules
};

std::vector<Candidate> candidates(const flux::Config& config) {
  std::vector<Candidate> all;
  for (const flux::LinearName& name : flux::linear_names(config)) {
    for (const flux::DiffusersPart& part : name.parts)
      all.push_back({{name.bfl, part.module, part.row0, part.rows, name.in, 0, 0}, false});
    all.push_back({{name.bfl, name.bfl, 0, name.out, name.in, 0, 0}, true});
  }
  return all;
}

std::vector<Candidate> clip_candidates(const ClipConfig& clip) {
  std::vector<Candidate> all;
  for (int64_t layer = 0; layer < clip.layers; ++layer)
    for (const char* module : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                               "self_attn.out_proj", "mlp.fc1", "mlp.fc2"}) {
      const std::string name = "text_model.encoder.layers." + std::to_string(layer) + "." + module;
      all.push_back(
          {{name, kTextEncoder + name, 0, name.ends_with("fc1") ? clip.hidden : clip.width,
            name.ends_with("fc2") ? clip.hidden : clip.width, 0, 0}});
    }
  return all;
}

bool in_blocks(const std::string& module) {
  return starts_with(module, "transformer_blocks.") ||
         starts_with(module, "single_transformer_blocks.");
}

bool is_modulation(const std::string& module) {
  return contains(module, ".norm.linear") || contains(module, ".norm1.linear") ||
         contains(module, ".norm1_context.linear");
}

/// The named sets of docs/config.md, each a question about a candidate.
std::function<bool(const Candidate&)> named_set(const std::string& name) {
  // Attention and feed-forward of all blocks, split as diffusers splits them, without modulation.
  if (name == "default")
    return [](const Candidate& c) {
      return !c.fused && in_blocks(c.spec.module) && !is_modulation(c.spec.module);
    };
  // sd-scripts' networks.lora_flux: every fused layer of the blocks, with modulation.
  if (name == "kohya")
    return [](const Candidate& c) {
      return c.fused && (starts_with(c.spec.bfl, "double_blocks.") ||
                         starts_with(c.spec.bfl, "single_blocks."));
    };
  // ai-toolkit: every split layer of the blocks, with modulation.
  if (name == "ai-toolkit")
    return [](const Candidate& c) { return !c.fused && in_blocks(c.spec.module); };
  // diffusers' DreamBooth script: its list of suffixes, which in single blocks fits only q, k, v.
  if (name == "diffusers")
    return [](const Candidate& c) {
      return !c.fused && in_blocks(c.spec.module) && !is_modulation(c.spec.module) &&
             !contains(c.spec.module, "proj_mlp") &&
             !(starts_with(c.spec.module, "single_") && contains(c.spec.module, ".proj_out"));
    };
  return nullptr;
}

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t corner = row[0]++;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = corner + (a[i - 1] != b[j - 1]);
      corner = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

[[noreturn]] void nothing_fits(const std::string& key, const std::string& pattern,
                               const std::vector<Candidate>& all) {
  std::string nearest;
  size_t best = SIZE_MAX;
  const auto consider = [&](const std::string& name) {
    const size_t distance = edit_distance(pattern, name);
    if (distance < best) {
      best = distance;
      nearest = name;
    }
  };
  for (const char* name : {"default", "kohya", "ai-toolkit", "diffusers"}) consider(name);
  for (const Candidate& c : all) {
    const std::string& name = c.spec.module;
    consider(name);
    for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1))
      consider(name.substr(dot + 1));
  }
  const bool sets = key == "lora.targets";
  throw bad_input(
      key, "\"" + pattern + "\" fits no " + (sets ? "layer of the model" : "layer of lora.targets"),
      "the nearest name is \"" + nearest + "\"; use " +
          (sets ? "default, kohya, ai-toolkit, diffusers, or " : "") + "patterns with *");
}

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

/// {A-B} in a pattern: where it is, and the numbers.
struct NumberRange {
  size_t first, end;  ///< of the text
  unsigned low, high;
};
std::optional<NumberRange> number_range(const std::string& pattern) {
  const size_t open = pattern.find('{'), close = pattern.find('}', open);
  if (open == std::string::npos || close == std::string::npos) return {};
  NumberRange range{open, close + 1, 0, 0};
  const char *const begin = pattern.data() + open + 1, *const end = pattern.data() + close;
  const auto [dash, bad_low] = std::from_chars(begin, end, range.low);
  if (bad_low != std::errc() || dash == end || *dash != '-') return {};
  const auto [stop, bad_high] = std::from_chars(dash + 1, end, range.high);
  if (bad_high != std::errc() || stop != end || range.high > 999) return {};
  return range;
}

/// Takes away the specs that `options.exclude` names.
void exclude(std::vector<AdapterSpec>& specs, const Options& options,
             const std::vector<Candidate>& all) {
  for (const std::string& pattern : options.exclude)
    if (!std::erase_if(specs, [&](const AdapterSpec& s) { return fits(pattern, s); }))
      nothing_fits("lora.exclude", pattern, all);
  if (specs.empty())
    throw bad_input("lora.exclude", "leaves no layer of lora.targets", "exclude fewer layers");
}

/// Rank and alpha of every spec.
void set_ranks(std::vector<AdapterSpec>& specs, const Options& options,
               const std::vector<Candidate>& all) {
  std::vector<NumberFor> ranks = numbers_by_pattern("lora.ranks", options.ranks);
  for (const NumberFor& r : ranks)
    if (r.number < 1 || r.number > 4096 || r.number != std::floor(r.number))
      throw bad_input("lora.ranks", "\"" + r.pattern + "\" has a rank that is none",
                      "give a whole number from 1 to 4096");
  for (AdapterSpec& s : specs) {
    s.rank = options.rank;
    s.dora = options.type == "dora";
    s.factor = options.type == "lokr" ? options.factor : 0;
    for (NumberFor& r : ranks) {
      if (!fits(r.pattern, s)) continue;
      s.rank = static_cast<int64_t>(r.number);
      r.used = true;
    }
    s.alpha = options.alpha * (options.rslora ? std::sqrt(static_cast<double>(s.rank)) : 1);
  }
  for (const NumberFor& r : ranks)
    if (!r.used) nothing_fits("lora.ranks", r.pattern, all);
}

}  // namespace

bool fits(const std::string& pattern, const std::string& name) {
  if (const auto range = number_range(pattern)) {
    for (unsigned n = range->low; n <= range->high; ++n)
      if (fits(pattern.substr(0, range->first) + std::to_string(n) + pattern.substr(range->end),
               name))
        return true;
    return false;
  }
  // Goes back to the last `*` alone, so that many of them cost no more than one.
  const auto match = [&](size_t n) {
    size_t p = 0, star = std::string::npos, resume = 0;
    while (n < name.size()) {
      if (p < pattern.size() && pattern[p] == '*') {
        star = p++;
        resume = n;
      } else if (p < pattern.size() && pattern[p] == name[n]) {
        ++p;
        ++n;
      } else if (star != std::string::npos) {
        p = star + 1;
        n = ++resume;
      } else {
        return false;
      }
    }
    return pattern.find_first_not_of('*', p) == std::string::npos;
  };
  if (match(0)) return true;
  for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1))
    if (match(dot + 1)) return true;
  return false;
}

bool fits(const std::string& pattern, const AdapterSpec& spec) {
  return fits(pattern, spec.module) || fits(pattern, spec.bfl);
}

std::vector<NumberFor> numbers_by_pattern(const std::string& key,
                                          const std::vector<std::string>& lines) {
  std::vector<NumberFor> all;
  for (const std::string& line : lines) {
    const size_t equals = line.rfind('=');
    NumberFor one{trimmed(line.substr(0, equals))};
    const std::string number = equals == std::string::npos ? "" : trimmed(line.substr(equals + 1));
    const char* const end = number.data() + number.size();
    const auto [stop, error] = std::from_chars(number.data(), end, one.number);
    if (one.pattern.empty() || number.empty() || error != std::errc() || stop != end ||
        !std::isfinite(one.number) || one.number < 0)
      throw bad_input(key, "\"" + line + "\" is not PATTERN = NUMBER",
                      "write for example \"single_transformer_blocks.* = " +
                          std::string(key == "lora.ranks" ? "8" : "0.5") + "\"");
    all.push_back(std::move(one));
  }
  return all;
}

void check_places(const std::vector<AdapterSpec>& specs) {
  for (const AdapterSpec& s : specs) {
    if (!s.dora && !s.factor) continue;
    const std::string type = s.dora ? "DoRA" : "LoKr";
    if (!starts_with(s.bfl, "double_blocks.") && !starts_with(s.bfl, "single_blocks."))
      throw bad_input(
          "lora.targets",
          "\"" + s.module + "\" is outside the blocks, where " + type + " does not train",
          "leave it out with lora.exclude, or set lora.type = \"lora\"");
    if (s.factor && s.module == s.bfl)
      throw bad_input("lora.targets",
                      "\"" + s.module + "\" is a fused layer, for which files have no LoKr",
                      "name its parts, as default and ai-toolkit do");
  }
}

bool is_clip(const AdapterSpec& spec) {
  return starts_with(spec.module, kTextEncoder);
}

bool has_clip(const std::vector<AdapterSpec>& specs) {
  return std::any_of(specs.begin(), specs.end(), is_clip);
}

std::vector<AdapterSpec> select_targets(const flux::Config& config, const Options& options,
                                        const ClipConfig& clip) {
  std::vector<Candidate> all = candidates(config);
  std::vector<bool> chosen(all.size(), false);
  for (const std::string& target : options.targets) {
    const auto set = named_set(target);
    bool any = false;
    for (size_t i = 0; i < all.size(); ++i) {
      // A pattern may name a module by diffusers or by BFL; a layer of one part only once.
      const Candidate& c = all[i];
      const bool alias =
          c.fused && all[i - 1].spec.bfl == c.spec.bfl && all[i - 1].spec.rows == c.spec.rows;
      const bool yes = set ? set(c) : fits(target, c.spec.module);
      if (!yes) continue;
      any = true;
      chosen[alias ? i - 1 : i] = true;
    }
    if (!any) nothing_fits("lora.targets", target, all);
  }
  std::vector<AdapterSpec> specs;
  for (size_t i = 0; i < all.size(); ++i)
    if (chosen[i]) specs.push_back(all[i].spec);
  if (options.text_encoder)
    for (const Candidate& c : clip_candidates(clip)) {
      specs.push_back(c.spec);
      all.push_back(c);
    }
  exclude(specs, options, all);
  set_ranks(specs, options, all);
  check_places(specs);
  // A fused layer and a part of it would train the same rows twice.
  for (const AdapterSpec& a : specs)
    for (const AdapterSpec& b : specs)
      if (a.bfl == b.bfl && a.module != b.module && a.row0 < b.row0 + b.rows &&
          b.row0 < a.row0 + a.rows)
        throw bad_input("lora.targets",
                        "names both \"" + a.module + "\" and \"" + b.module +
                            "\", which share rows of one layer",
                        "name either the fused layer or its parts");
  return specs;
}

}  // namespace fluxlora::lora
