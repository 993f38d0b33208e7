// SPDX-License-Identifier: Apache-2.0
// How others store weights in fewer bits (flux-facts 2.3): fp8 with a factor is read, the rest is
// refused by name.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/source.h"
#include "tensor/quantise.h"

namespace fluxlora {
namespace {

using nlohmann::json;

constexpr std::string_view kWeight = ".weight";

/// Endings of tensors that only a format has which is not read, with its name.
struct Mark {
  std::string_view ending;
  const char* format;
};
constexpr Mark kMarks[] = {{".weight_scale_2", "nvfp4"},
                           {".weight.absmax", "bitsandbytes (nf4, fp4 or int8)"},
                           {".SCB", "bitsandbytes int8"},
                           {".qweight", "4-bit integers (Nunchaku, GPTQ or AWQ)"},
                           {".wscales", "4-bit integers (Nunchaku)"}};

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& layer,
                         const std::string& format) {
  throw bad_input(path.string(),
                  fmt::format("\"{}\" is quantised as {}, which is not read", layer, format),
                  "take the model in bf16, f16 or fp8 (plain or scaled)");
}

std::string format_in(const json& entry) {
  if (!entry.is_object() || !entry.contains("format") || !entry["format"].is_string())
    return "an unnamed format";
  return entry["format"].get<std::string>();
}

}  // namespace

void TensorSource::check_format(const std::string& layer, const std::string& format) const {
  if (format != "float8_e4m3fn" && format != "float8_e5m2") refuse(files_.path(), layer, format);
}

void TensorSource::check_quantisation() const {
  for (const std::string& name : files_.names()) {
    if (!name.starts_with(prefix_)) continue;
    for (const Mark& mark : kMarks)
      if (name.ends_with(mark.ending))
        refuse(files_.path(), name.substr(0, name.size() - mark.ending.size()), mark.format);
    const auto& entry = files_.entry(name);
    constexpr std::string_view kComfy = ".comfy_quant";
    if (name.ends_with(kComfy)) {
      const auto* text = reinterpret_cast<const char*>(entry.data);
      check_format(name.substr(0, name.size() - kComfy.size()),
                   format_in(json::parse(text, text + entry.bytes, nullptr, false)));
    }
    if (name.ends_with(kWeight) && entry.dtype > DType::f8_e5m2)
      refuse(files_.path(), name, std::string(safetensors_name(entry.dtype)));
  }
  for (const auto& file : files_.files()) {
    const auto entry = file->metadata().find("_quantization_metadata");
    if (entry == file->metadata().end()) continue;
    const json root = json::parse(entry->second, nullptr, false);
    if (!root.is_object() || !root.contains("layers") || !root["layers"].is_object())
      fail("has a damaged entry _quantization_metadata");
    for (const auto& [layer, value] : root["layers"].items()) check_format(layer, format_in(value));
  }
}

std::vector<double> TensorSource::scales(const std::string& stored, int64_t rows) const {
  if (!stored.ends_with(kWeight)) return {};
  const std::string layer = prefix_ + stored.substr(0, stored.size() - kWeight.size());
  for (const char* ending : {".scale_weight", ".weight_scale"}) {
    const std::string name = layer + ending;
    if (!files_.contains(name)) continue;
    const auto& entry = files_.entry(name);
    int64_t count = 1;
    for (const int64_t size : entry.shape) count *= size;
    if (entry.dtype > DType::f16)
      refuse(files_.path(), layer,
             fmt::format("something with scales of the type {}", safetensors_name(entry.dtype)));
    if (count != 1 && (count != rows || entry.shape[0] != rows))
      refuse(files_.path(), layer, "something with a scale for each block of numbers");
    std::vector<double> factors(static_cast<size_t>(count));
    convert(DType::f64, factors.data(), entry.dtype, entry.data, count);
    for (const double factor : factors)
      if (!std::isfinite(factor)) fail(fmt::format("\"{}\" is not finite", name));
    return factors;
  }
  return {};
}

bool TensorSource::stores_codes(const std::string& name, const std::vector<int64_t>& shape) const {
  const std::vector<StoredRows> list = pieces(name, shape);
  return std::all_of(list.begin(), list.end(), [&](const StoredRows& piece) {
    return files_.entry(prefix_ + piece.stored).dtype == DType::f8_e4m3;
  });
}

void TensorSource::copy_codes(const Tensor& values, const Tensor& scales,
                              const std::string& name) const {
  const int64_t in = values.dim(1);
  for (const StoredRows& piece : pieces(name, {values.dim(0), in})) {
    const auto& entry = files_.entry(prefix_ + piece.stored);
    convert(DType::f8_e4m3, values.as<uint8_t>() + piece.row0 * in, DType::f8_e4m3,
            entry.data + piece.first * in, piece.rows * in);
    const std::vector<double> factors = this->scales(piece.stored, entry.shape[0]);
    for (int64_t r = 0; r < piece.rows; ++r) {
      const double factor = factors.empty()       ? 1
                            : factors.size() == 1 ? factors[0]
                                                  : factors[static_cast<size_t>(piece.first + r)];
      scales.as<float>()[piece.row0 + r] = static_cast<float>(factor);
    }
  }
}

void TensorSource::read(const Weight& weight, const std::string& name) const {
  const std::vector<int64_t> shape{weight.out(), weight.in()};
  if (!is_quantised(weight.format))
    return read_into(weight.values.data(), weight.values.dtype(), name, shape);
  check(name, shape);
  if (weight.format == WeightFormat::fp8 && stores_codes(name, shape))
    return copy_codes(weight.values, weight.scales, name);
  quantise(weight, read(name, shape, DType::f32).view);
}

void TensorSource::load(Device& device, const Weight& weight, const std::string& name) const {
  if (device.is_host()) return read(weight, name);
  if (!is_quantised(weight.format)) return load(device, weight.values, name);
  const int64_t out = weight.out(), in = weight.in();
  check(name, {out, in});
  if (weight.format != WeightFormat::fp8 || !stores_codes(name, {out, in})) {
    const Buffer memory = device.allocate(out * in * dtype_size(DType::bf16));
    const Tensor plain(DType::bf16, {out, in}, memory.data());
    load(device, plain, name);
    return device.ops().quantise(weight, plain);
  }
  const HostTensor values(weight.values.dtype(), {out, in}), scales(DType::f32, {out});
  copy_codes(values.view, scales.view, name);
  device.upload(weight.values, values.view.data());
  device.upload(weight.scales, scales.view.data());
}

}  // namespace fluxlora
