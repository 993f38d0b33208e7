// SPDX-License-Identifier: Apache-2.0
#include "model/load.h"

#include "base/error.h"

namespace fluxlora {
namespace {

std::vector<int64_t> without_trailing_ones(std::vector<int64_t> shape) {
  while (shape.size() > 1 && shape.back() == 1) shape.pop_back();
  return shape;
}

std::string describe(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

}  // namespace

void check_tensor(const SafetensorsSet& files, const std::string& name,
                  const std::vector<int64_t>& shape) {
  if (!files.contains(name))
    throw bad_input(files.path().string(), "has no tensor \"" + name + "\"",
                    "the file is of another model or damaged: compare it with the config.json "
                    "beside it, or fetch the model again");
  const std::vector<int64_t>& found = files.entry(name).shape;
  if (without_trailing_ones(found) != without_trailing_ones(shape))
    throw bad_input(files.path().string(),
                    "tensor \"" + name + "\" is " + describe(found) + " where " + describe(shape) +
                        " is expected",
                    "the file does not fit the config.json beside it: fetch the model again");
}

HostTensor read_checked(const SafetensorsSet& files, const std::string& name,
                        const std::vector<int64_t>& shape, DType dtype) {
  check_tensor(files, name, shape);
  return files.read(name, dtype);
}

void load_tensor(Device& device, const Tensor& destination, const SafetensorsSet& files,
                 const std::string& name) {
  std::vector<int64_t> shape;
  for (int i = 0; i < destination.rank(); ++i) shape.push_back(destination.dim(i));
  const HostTensor host = read_checked(files, name, shape, destination.dtype());
  device.upload(destination, host.view.data());
}

}  // namespace fluxlora
