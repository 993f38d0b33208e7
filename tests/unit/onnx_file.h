// SPDX-License-Identifier: Apache-2.0
// Writes small ONNX files: the few fields of onnx.proto3 (ModelProto, IR version 8) that a graph of
// plain nodes needs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fluxlora::onnx_file {

inline std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  return out + static_cast<char>(value);
}
inline std::string number(int field, uint64_t value) {
  return varint(static_cast<uint64_t>(field) << 3) + varint(value);
}
inline std::string bytes(int field, const std::string& value) {
  return varint(static_cast<uint64_t>(field) << 3 | 2) + varint(value.size()) + value;
}

/// NodeProto: input = 1, output = 2, op_type = 4.
inline std::string node(const std::string& type, const std::vector<std::string>& inputs,
                        const std::string& output) {
  std::string out;
  for (const std::string& input : inputs) out += bytes(1, input);
  return out + bytes(2, output) + bytes(4, type);
}

constexpr int kFloat = 1, kInt64 = 7;

/// ValueInfoProto; a dimension below 0 is open.
inline std::string value(const std::string& name, int type, const std::vector<int>& shape) {
  std::string dims;
  for (const int size : shape)
    dims += bytes(1, size < 0 ? bytes(2, "any") : number(1, static_cast<uint64_t>(size)));
  return bytes(1, name) +
         bytes(2, bytes(1, number(1, static_cast<uint64_t>(type)) + bytes(2, dims)));
}

/// ModelProto: ir_version = 1, graph = 7 (node = 1, name = 2, input = 11, output = 12),
/// opset_import = 8 (version = 2).
inline std::string model(const std::vector<std::string>& nodes,
                         const std::vector<std::string>& inputs,
                         const std::vector<std::string>& outputs) {
  std::string graph;
  for (const std::string& n : nodes) graph += bytes(1, n);
  graph += bytes(2, "graph");
  for (const std::string& i : inputs) graph += bytes(11, i);
  for (const std::string& o : outputs) graph += bytes(12, o);
  return number(1, 8) + bytes(7, graph) + bytes(8, number(2, 17));
}

}  // namespace fluxlora::onnx_file
