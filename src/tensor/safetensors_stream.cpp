// SPDX-License-Identifier: Apache-2.0
#include "tensor/safetensors_stream.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace fluxlora {
namespace {

int64_t bytes_in(const TensorPlan& plan) {
  int64_t count = dtype_size(plan.dtype);
  for (const int64_t size : plan.shape) count *= size;
  return count;
}

/// Length and JSON, padded with spaces to a multiple of 8.
std::string header_of(const std::vector<TensorPlan>& plans,
                      const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const TensorPlan& plan : plans) {
    CHECK(!header.contains(plan.name), "stream_safetensors: name used twice: " + plan.name);
    const int64_t end = offset + bytes_in(plan);
    header[plan.name] = {{"dtype", safetensors_name(plan.dtype)},
                         {"shape", plan.shape},
                         {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(text.size() >> (8 * i));
  return bytes + text;
}

}  // namespace

void stream_safetensors(const std::filesystem::path& path, const std::vector<TensorPlan>& plans,
                        const std::map<std::string, std::string>& metadata,
                        const std::function<std::span<const std::byte>(size_t)>& bytes_of) {
  const std::string header = header_of(plans, metadata);
  write_file_atomically(path, [&](const ByteSink& sink) {
    sink(std::as_bytes(std::span(header)));
    for (size_t i = 0; i < plans.size(); ++i) {
      const std::span<const std::byte> bytes = bytes_of(i);
      CHECK(static_cast<int64_t>(bytes.size()) == bytes_in(plans[i]),
            "stream_safetensors: " + plans[i].name);
      sink(bytes);
    }
  });
}

}  // namespace fluxlora
