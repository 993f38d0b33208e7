// SPDX-License-Identifier: Apache-2.0
// The only file that names concrete backends.
#include <charconv>

#include "backend/cpu/cpu_device.h"
#include "backend/cuda/cuda_device.h"
#include "base/error.h"
#include "ops/device.h"

namespace fluxlora {
namespace {

const std::string kCuda = "cuda";

Error not_a_device(const std::string& name) {
  return bad_input("--device " + name, "is not a device", "give auto, cpu, cuda or cuda:N");
}

/// "cuda" is 0, "cuda:N" is N.
int gpu_index(const std::string& name) {
  if (name == kCuda) return 0;
  int index = 0;
  const char* const end = name.data() + name.size();
  const char* const first = name.data() + std::min(name.size(), kCuda.size() + 1);
  const auto [last, error] = std::from_chars(first, end, index);
  if (name[kCuda.size()] != ':' || error != std::errc() || last != end || index < 0)
    throw not_a_device(name);
  return index;
}

}  // namespace

std::unique_ptr<Device> open_device(const std::string& name) {
  if (name == "cpu" || (name == "auto" && cuda_fault(0))) return open_cpu_device();
  if (name == "auto") return open_cuda_device(0);
  if (name.starts_with(kCuda)) return open_cuda_device(gpu_index(name));
  throw not_a_device(name);
}

}  // namespace fluxlora
