// SPDX-License-Identifier: Apache-2.0
// The only file that names a concrete backend.
#include "backend/cpu/cpu_device.h"
#include "base/error.h"
#include "ops/device.h"

namespace fluxlora {

std::unique_ptr<Device> open_device(const std::string& name) {
  if (name == "cpu" || name == "auto") return open_cpu_device();
  if (name.rfind("cuda", 0) == 0)
    throw environment_error("--device " + name, "this fluxlora was built without CUDA",
                            "use --device cpu");
  throw bad_input("--device " + name, "is not a device", "give auto, cpu, cuda or cuda:N");
}

}  // namespace fluxlora
