// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/spiece_model.h"

#include <cstdint>

namespace fluxlora {
namespace {

// One field of a protocol buffer (protobuf.dev, "Encoding").
struct Field {
  uint64_t number = 0;
  std::string_view content;  // of a length-delimited field
};

std::optional<uint64_t> varint(std::string_view bytes, size_t& at) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && at < bytes.size(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes[at++]);
    value |= static_cast<uint64_t>(byte & 127) << shift;
    if (byte < 128) return value;
  }
  return std::nullopt;
}

std::optional<Field> next_field(std::string_view bytes, size_t& at) {
  const auto tag = varint(bytes, at);
  if (!tag) return std::nullopt;
  Field field{*tag >> 3, {}};
  uint64_t length = 0;
  switch (*tag & 7) {
    case 0:
      if (!varint(bytes, at)) return std::nullopt;
      break;
    case 1:
      length = 8;
      break;
    case 2: {
      const auto size = varint(bytes, at);
      if (!size) return std::nullopt;
      length = *size;
      break;
    }
    case 5:
      length = 4;
      break;
    default:
      return std::nullopt;
  }
  if (length > bytes.size() - at) return std::nullopt;
  field.content = bytes.substr(at, length);
  at += length;
  return field;
}

// The last field of this number; an empty view if there is none.
std::optional<std::string_view> find_field(std::string_view message, uint64_t number) {
  std::string_view found;
  for (size_t at = 0; at < message.size();) {
    const auto field = next_field(message, at);
    if (!field) return std::nullopt;
    if (field->number == number) found = field->content;
  }
  return found;
}

}  // namespace

std::optional<std::string_view> find_charsmap(std::string_view bytes) {
  const auto normalizer_spec = find_field(bytes, 3);
  if (!normalizer_spec) return std::nullopt;
  return find_field(*normalizer_spec, 2);
}

}  // namespace fluxlora
