// SPDX-License-Identifier: Apache-2.0
// safetensors_copy IN OUT [TYPE]: reads a file and writes it again, all tensors converted to TYPE
// if given ("F32"), for tests/interop/test_safetensors.py.
#include <cstdio>

#include "base/error.h"
#include "tensor/safetensors.h"

int main(int argc, char** argv) {
  using namespace fluxlora;
  if (argc != 3 && argc != 4) return 2;
  try {
    const SafetensorsFile file(argv[1]);
    std::vector<HostTensor> memory;
    std::vector<NamedTensor> tensors;
    for (const std::string& name : file.names()) {
      const auto& entry = file.entry(name);
      memory.push_back(
          file.read(name, argc == 4 ? dtype_from_safetensors(argv[3], argv[3]) : entry.dtype));
      tensors.push_back({name, memory.back().view, entry.shape.empty()});
    }
    write_safetensors(argv[2], tensors, file.metadata());
  } catch (const Error& error) {
    std::fputs(error.two_lines().c_str(), stderr);
    return static_cast<int>(error.kind());
  }
  return 0;
}
