// SPDX-License-Identifier: Apache-2.0
// What stands in for backend/cuda in a build without CUDA.
#include "backend/cuda/cuda_device.h"

namespace fluxlora {

std::optional<Error> cuda_fault(int index) {
  return environment_error("--device cuda:" + std::to_string(index),
                           "this fluxlora was built without CUDA", "use --device cpu");
}

std::unique_ptr<Device> open_cuda_device(int index) {
  throw *cuda_fault(index);
}

}  // namespace fluxlora
