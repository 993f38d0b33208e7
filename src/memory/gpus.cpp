// SPDX-License-Identifier: Apache-2.0
#include "memory/gpus.h"

#include <algorithm>
#include <cctype>

namespace fluxlora {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

/// Measured at the sizes of FLUX.1-dev (docs/memory.md), int8 products excepted, which are taken to
/// be as fast as fp8's. An H100 has the same arithmetic and slower memory.
constexpr Rates kH200{.product_bf16 = 754e12,
                      .product_fp8 = 1328e12,
                      .product_int8 = 1328e12,
                      .attention = 637e12,
                      .attention_backward = 548e12,
                      .memory = 4.3e12,
                      .link = 50e9};

constexpr Rates with_memory(Rates rates, double memory) {
  rates.memory = memory;
  return rates;
}

const std::vector<GpuKind>& kinds() {
  static const std::vector<GpuKind> all{
      {"H200", 141 * kGiB, kH200},     {"H100", 80 * kGiB, with_memory(kH200, 3.0e12)},
      {"A100", 40 * kGiB, {}},         {"A100 80GB", 80 * kGiB, {}},
      {"L40S", 48 * kGiB, {}},         {"RTX A6000", 48 * kGiB, {}},
      {"RTX 6000 Ada", 48 * kGiB, {}}, {"RTX 5090", 32 * kGiB, {}},
      {"RTX 5080", 16 * kGiB, {}},     {"RTX 5070 Ti", 16 * kGiB, {}},
      {"RTX 5070", 12 * kGiB, {}},     {"RTX 4090", 24 * kGiB, {}},
      {"RTX 4080", 16 * kGiB, {}},     {"RTX 4070 Ti Super", 16 * kGiB, {}},
      {"RTX 4070", 12 * kGiB, {}},     {"RTX 3090", 24 * kGiB, {}},
      {"RTX 3080", 10 * kGiB, {}},     {"RTX 3060", 12 * kGiB, {}},
  };
  return all;
}

/// Lower case, without spaces and signs.
std::string key_of(const std::string& name) {
  std::string key;
  for (const char c : name)
    if (std::isalnum(static_cast<unsigned char>(c)))
      key += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return key;
}

}  // namespace

std::optional<GpuKind> find_gpu(const std::string& name) {
  const std::string wanted = key_of(name);
  const GpuKind* best = nullptr;
  for (const GpuKind& kind : kinds())
    if (wanted.find(key_of(kind.name)) != std::string::npos &&
        (!best || kind.name.size() > best->name.size()))
      best = &kind;
  return best ? std::optional(*best) : std::nullopt;
}

std::vector<std::string> gpu_names() {
  std::vector<std::string> names;
  for (const GpuKind& kind : kinds()) names.push_back(kind.name);
  return names;
}

Rates assumed_rates() {
  return {.product_bf16 = 150e12,
          .product_fp8 = 300e12,
          .product_int8 = 300e12,
          .attention = 120e12,
          .attention_backward = 100e12,
          .memory = 0.9e12,
          .link = 22e9};
}

}  // namespace fluxlora
