// SPDX-License-Identifier: Apache-2.0
#include "caption/onnx_session.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/file.h"
#include "base/parallel.h"
#include "caption/openvino.h"

namespace fluxlora::caption {
namespace {

/// An object of the library and how it goes.
using Owned = std::unique_ptr<void, void (*)(void*)>;

/// What the library complains of: its messages are long, the last line says it.
std::string complaint(const OpenVino& ov) {
  const char* text = ov.get_last_err_msg();
  std::string message = text ? text : "";
  while (!message.empty() && (message.back() == '\n' || message.back() == '.')) message.pop_back();
  const size_t line = message.rfind('\n');
  if (line != std::string::npos) message = message.substr(line + 1);
  return message.substr(0, 200);
}

std::vector<int64_t> shape_of(const OpenVino& ov, void* port) {
  OpenVino::PartialShape partial{};
  std::vector<int64_t> shape;
  if (ov.port_get_partial_shape(port, &partial) != 0) return shape;
  if (partial.rank.min == partial.rank.max)
    for (int64_t i = 0; i < partial.rank.max; ++i) {
      const OpenVino::Dimension& d = partial.dims[i];
      shape.push_back(d.min == d.max ? d.min : -1);
    }
  ov.partial_shape_free(&partial);
  return shape;
}

OnnxTensor read_tensor(const OpenVino& ov, void* tensor, int type) {
  OnnxTensor out;
  OpenVino::Shape shape{};
  size_t bytes = 0;
  void* data = nullptr;
  const bool read = ov.tensor_get_shape(tensor, &shape) == 0 &&
                    ov.tensor_get_byte_size(tensor, &bytes) == 0 &&
                    (bytes == 0 || ov.tensor_data(tensor, &data) == 0);
  CHECK(read, "OpenVINO: an output cannot be read");
  out.shape.assign(shape.dims, shape.dims + shape.rank);
  ov.shape_free(&shape);
  if (type == OpenVino::kF32) {
    const auto* values = static_cast<const float*>(data);
    out.values = std::vector<float>(values, values + bytes / sizeof(float));
  } else {
    const auto* values = static_cast<const int64_t*>(data);
    out.values = std::vector<int64_t>(values, values + bytes / sizeof(int64_t));
  }
  return out;
}

}  // namespace

class OnnxSession::Impl {
 public:
  explicit Impl(const std::filesystem::path& model) : path(model), ov(open_openvino()) {
    // Every ONNX file begins with the field ir_version. Other files would be tried as models of
    // other kinds, with much noise on stderr.
    const FileView file = map_file(model);
    if (file.bytes.empty() || file.bytes[0] != std::byte{0x08})
      throw bad_input(model.string(), "is not an ONNX file", "copy or fetch the model again");
    void* made = nullptr;
    const std::string threads = std::to_string(thread_count());
    check(ov.core_compile_model_from_file(
              ov.core, model.c_str(), "CPU", 6, &made, "INFERENCE_PRECISION_HINT", "f32",
              "INFERENCE_NUM_THREADS", threads.c_str(), "PERFORMANCE_HINT", "LATENCY"),
          "is not an ONNX file that OpenVINO runs");
    compiled = Owned(made, ov.compiled_model_free);
    check(ov.compiled_model_create_infer_request(made, &made), "cannot be run");
    request = Owned(made, ov.infer_request_free);
    read_ports(inputs, ov.compiled_model_inputs_size, ov.compiled_model_input_by_index);
    read_ports(outputs, ov.compiled_model_outputs_size, ov.compiled_model_output_by_index);
  }

  /// Whether the model has an input of this name; if so it is set.
  bool set(const std::string& name, const OnnxTensor& tensor) {
    void* port = nullptr;
    if (ov.compiled_model_input_by_name(compiled.get(), name.c_str(), &port) != 0) return false;
    ov.output_const_port_free(port);
    const auto fill = [&](const auto& values, int type) {
      CHECK(static_cast<int64_t>(values.size()) == std::accumulate(tensor.shape.begin(),
                                                                   tensor.shape.end(), int64_t{1},
                                                                   std::multiplies<>()),
            "onnx: values and shape of " + name);
      std::vector<int64_t> dims = tensor.shape;
      void* made = nullptr;
      check(ov.tensor_create(type, {static_cast<int64_t>(dims.size()), dims.data()}, &made),
            "has no room for its input " + name);
      const Owned owned(made, ov.tensor_free);
      void* data = nullptr;
      if (!values.empty()) {
        check(ov.tensor_data(made, &data), "has no room for its input " + name);
        std::memcpy(data, values.data(), values.size() * sizeof(values[0]));
      }
      check(ov.infer_request_set_tensor(request.get(), name.c_str(), made),
            fmt::format("does not take {} of shape ({})", name, fmt::join(tensor.shape, ", ")));
    };
    if (const auto* floats = std::get_if<std::vector<float>>(&tensor.values))
      fill(*floats, OpenVino::kF32);
    else
      fill(std::get<std::vector<int64_t>>(tensor.values), OpenVino::kI64);
    return true;
  }

  OnnxTensors run(const std::vector<std::string>& wanted) {
    check(ov.infer_request_infer(request.get()), "fails on this input");
    OnnxTensors all;
    for (const std::string& name : wanted) {
      void* got = nullptr;
      check(ov.infer_request_get_tensor(request.get(), name.c_str(), &got), "gives no " + name);
      const Owned tensor(got, ov.tensor_free);
      int type = 0;
      check(ov.tensor_get_element_type(got, &type), "gives no " + name);
      if (type != OpenVino::kF32 && type != OpenVino::kI64)
        throw bad_input(path.string(), "gives " + name + " in another type than f32 and i64",
                        "take the model's files in full precision");
      all.emplace(name, read_tensor(ov, got, type));
    }
    return all;
  }

  std::filesystem::path path;
  std::vector<OnnxPort> inputs, outputs;

 private:
  void check(OpenVino::Status status, const std::string& what) const {
    if (status == 0) return;
    const std::string reason = complaint(ov);
    throw bad_input(path.string(), what + (reason.empty() ? "" : " (" + reason + ")"),
                    "copy the model's files again, all of one model");
  }

  template <typename Count, typename Get>
  void read_ports(std::vector<OnnxPort>& ports, Count count, Get get) {
    size_t size = 0;
    check(count(compiled.get(), &size), "cannot be read");
    for (size_t i = 0; i < size; ++i) {
      void* got = nullptr;
      check(get(compiled.get(), i, &got), "cannot be read");
      const Owned port(got, ov.output_const_port_free);
      char* name = nullptr;
      check(ov.port_get_any_name(got, &name), "has an input or output without a name");
      ports.push_back({name, shape_of(ov, got)});
      ov.free(name);
    }
  }

  const OpenVino& ov;
  Owned compiled{nullptr, nullptr}, request{nullptr, nullptr};
};

OnnxSession::OnnxSession(const std::filesystem::path& model)
    : impl_(std::make_unique<Impl>(model)) {}
OnnxSession::~OnnxSession() = default;
OnnxSession::OnnxSession(OnnxSession&&) noexcept = default;
OnnxSession& OnnxSession::operator=(OnnxSession&&) noexcept = default;

const std::filesystem::path& OnnxSession::path() const {
  return impl_->path;
}
const std::vector<OnnxPort>& OnnxSession::inputs() const {
  return impl_->inputs;
}
const std::vector<OnnxPort>& OnnxSession::outputs() const {
  return impl_->outputs;
}

OnnxTensors OnnxSession::run(const OnnxTensors& inputs, const std::vector<std::string>& wanted) {
  size_t known = 0;
  for (const auto& [name, tensor] : inputs) known += impl_->set(name, tensor) ? 1 : 0;
  if (known < impl_->inputs.size()) {
    std::vector<std::string> names;
    for (const OnnxPort& port : impl_->inputs) names.push_back(port.name);
    throw bad_input(
        impl_->path.string(),
        fmt::format("wants more inputs than are known: it has {}", fmt::join(names, ", ")),
        "give the ONNX files of a model of this kind");
  }
  return impl_->run(wanted);
}

}  // namespace fluxlora::caption
