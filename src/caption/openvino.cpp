// SPDX-License-Identifier: Apache-2.0
#include "caption/openvino.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <dlfcn.h>

#include "base/error.h"
#include "base/log.h"

namespace fluxlora::caption {
namespace {

namespace fs = std::filesystem;

const std::string kInstall =
    "python3 -m pip install openvino, then set FLUXLORA_OPENVINO to the folder openvino/libs that "
    "it "
    "made (pip show -f openvino says where); or leave automatic captions out with --caption none";

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

/// The wheel has no name without a version: libopenvino_c.so.2641.
std::vector<fs::path> libraries_in(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    if (entry.path().filename().string().starts_with("libopenvino_c.so"))
      found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<fs::path> libraries_in_python(const fs::path& environment) {
  std::vector<fs::path> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(environment / "lib", ignored)) {
    if (!entry.path().filename().string().starts_with("python3")) continue;
    for (fs::path& library : libraries_in(entry.path() / "site-packages" / "openvino" / "libs"))
      found.push_back(std::move(library));
  }
  return found;
}

std::vector<fs::path> candidates() {
  if (const std::string folder = variable("FLUXLORA_OPENVINO"); !folder.empty())
    return libraries_in(folder);
  std::vector<fs::path> all{"libopenvino_c.so"};
  for (const std::string& environment :
       {variable("VIRTUAL_ENV"), variable("HOME").empty() ? "" : variable("HOME") + "/.local"}) {
    if (environment.empty()) continue;
    for (fs::path& library : libraries_in_python(environment)) all.push_back(std::move(library));
  }
  return all;
}

void* load() {
  std::string reason;
  for (const fs::path& library : candidates()) {
    if (void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL)) {
      log_debug("OpenVINO: " + library.string());
      return handle;
    }
    reason = dlerror();
  }
  const std::string folder = variable("FLUXLORA_OPENVINO");
  if (!folder.empty() && reason.empty())
    throw environment_error("FLUXLORA_OPENVINO=" + folder, "holds no libopenvino_c.so", kInstall);
  throw environment_error("OpenVINO",
                          "the library that runs ONNX files was not found" +
                              (folder.empty() || reason.empty() ? "" : " (" + reason + ")"),
                          kInstall);
}

template <typename Function>
void find(Function& function, void* library, const std::string& name) {
  function = reinterpret_cast<Function>(dlsym(library, ("ov_" + name).c_str()));
  if (!function) throw environment_error("OpenVINO", "this version has no ov_" + name, kInstall);
}

/// The numbers of element types changed once, so they are asked for by their sizes: 4 and 8 bytes.
bool counts_types_as_we_do(const OpenVino& ov) {
  const auto bytes_of_one = [&](int type) {
    int64_t one = 1;
    OpenVino::Handle tensor = nullptr;
    size_t bytes = 0;
    if (ov.tensor_create(type, {1, &one}, &tensor) != 0) return bytes;
    ov.tensor_get_byte_size(tensor, &bytes);
    ov.tensor_free(tensor);
    return bytes;
  };
  return bytes_of_one(OpenVino::kF32) == 4 && bytes_of_one(OpenVino::kI64) == 8;
}

OpenVino open() {
  void* library = load();
  OpenVino ov{};
#define FIND(name) find(ov.name, library, #name)
  FIND(core_create);
  FIND(core_compile_model_from_file);
  FIND(compiled_model_inputs_size);
  FIND(compiled_model_outputs_size);
  FIND(compiled_model_input_by_name);
  FIND(compiled_model_input_by_index);
  FIND(compiled_model_output_by_index);
  FIND(compiled_model_create_infer_request);
  FIND(compiled_model_free);
  FIND(port_get_any_name);
  FIND(port_get_partial_shape);
  FIND(partial_shape_free);
  FIND(output_const_port_free);
  FIND(infer_request_set_tensor);
  FIND(infer_request_infer);
  FIND(infer_request_get_tensor);
  FIND(infer_request_free);
  FIND(tensor_create);
  FIND(tensor_get_shape);
  FIND(tensor_get_element_type);
  FIND(tensor_get_byte_size);
  FIND(tensor_data);
  FIND(tensor_free);
  FIND(shape_free);
  FIND(free);
  FIND(get_last_err_msg);
#undef FIND
  if (!counts_types_as_we_do(ov))
    throw environment_error("OpenVINO", "this version is too old or too new", kInstall);
  if (ov.core_create(&ov.core) != 0)
    throw environment_error("OpenVINO", "does not start", kInstall);
  return ov;
}

}  // namespace

const OpenVino& open_openvino() {
  static const OpenVino library = open();
  return library;
}

}  // namespace fluxlora::caption
