// SPDX-License-Identifier: Apache-2.0
// Runs ONNX files by OpenVINO, which is looked for when it is needed and not before: the program
// starts, and all else in it works, without.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

namespace fluxlora::caption {

/// A dense array, row-major. As many values as the product of the shape. The runtime computes with
/// the low 32 bits of integers: enough for ids.
struct OnnxTensor {
  std::vector<int64_t> shape;
  std::variant<std::vector<float>, std::vector<int64_t>> values;

  const std::vector<float>& floats() const { return std::get<std::vector<float>>(values); }
};

using OnnxTensors = std::map<std::string, OnnxTensor>;

/// An input or output of a model.
struct OnnxPort {
  std::string name;            ///< one of those that it has: a file may give a tensor several
  std::vector<int64_t> shape;  ///< -1: any; empty also when the number of dimensions is open
};

/// One model, ready to run. On the CPU, in f32 whatever the machine would prefer, on the threads of
/// base/parallel.h.
class OnnxSession {
 public:
  /// Looks for libopenvino_c.so in the folder $FLUXLORA_OPENVINO if that is set and nowhere else,
  /// otherwise among the system's libraries, then in the Python environments $VIRTUAL_ENV and
  /// ~/.local. Throws Error: environment when there is none or its version is unknown, bad_input
  /// when `model` is missing or is no ONNX file that the runtime can run.
  explicit OnnxSession(const std::filesystem::path& model);
  ~OnnxSession();
  OnnxSession(OnnxSession&&) noexcept;
  OnnxSession& operator=(OnnxSession&&) noexcept;

  const std::filesystem::path& path() const;
  const std::vector<OnnxPort>& inputs() const;
  const std::vector<OnnxPort>& outputs() const;

  /// The outputs of the names `wanted`, f32 or i64. Takes of `inputs` those that the model has.
  /// Throws Error (bad_input) that names the file when it has more inputs or lacks an output, or an
  /// input has a type or shape that the model does not take.
  OnnxTensors run(const OnnxTensors& inputs, const std::vector<std::string>& wanted);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fluxlora::caption
